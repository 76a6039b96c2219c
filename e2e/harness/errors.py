"""What can go wrong in the harness. Every message says what to do next."""


class HarnessError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class MissingPrerequisiteError(HarnessError):
    """The host lacks something; the message holds the install line."""


class BuildError(HarnessError):
    """A tool or an image could not be built; the message names the log."""


class ProcessError(HarnessError):
    """A component ended or did not answer in time; the message ends with its last log lines."""


class NotOursError(HarnessError):
    """The cluster was not made by this harness, so it is left alone."""


class CommandError(HarnessError):
    """A command such as kubectl or helm exited non-zero; the message holds its standard error."""


class WaitError(HarnessError):
    """A condition did not come true before its deadline; the message shows the object and its events."""
