"""What can go wrong in the operator, as one tree.

OperatorError
  ConfigurationError    a setting or a kubeconfig; the process exits 2
  LeaseLost             another copy may be working now; the process exits 3
  WatchLost             kopf has given a watch up; the process exits 1
  ApiError              an answer of the API server, with its reason and message
    NotFound            404: the object, its namespace or its whole kind
    Conflict            409: changed since it was read, or exists already
    Forbidden           401 and 403: RBAC, or a token that is no longer good
    Invalid             400, 413 and 422: the object is refused; `causes` name the fields
    Gone                410: a list's continue token or a watch's version is too old
    Unreachable         no answer, or only 429 and 5xx, after all retries
  NameTaken             an object that is not ours stands where a child belongs
  SpecError             a spec that cannot be served as written; becomes the condition Accepted
"""

from dataclasses import dataclass


class OperatorError(Exception):
    """The root. `exit_code` is what the process exits with when nothing handles it."""

    exit_code = 1


class ConfigurationError(OperatorError):
    """A setting or a kubeconfig cannot be used; the message names it."""

    exit_code = 2


class LeaseLost(OperatorError):
    """The lease could not be renewed in time: another copy may be writing now."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one field of a refused object is wrong, as the API server words it."""

    field: str
    message: str


class WatchLost(OperatorError):
    """Changes of some kind are no longer told: a new process sees again."""


class ApiError(OperatorError):
    """The API server said no.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        reason: The server's CamelCase word for it, such as AlreadyExists.
        causes: The fields at fault, if it named any.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "", causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or type(self).__name__
        self.causes = causes


class NotFound(ApiError):
    """There is no such object, namespace or kind."""


class Conflict(ApiError):
    """The object has changed since it was read, exists already, or is not the one that was meant."""


class Forbidden(ApiError):
    """The operator's account may not do this: see the chart's RBAC."""


class Invalid(ApiError):
    """The object is refused by its schema, a validation rule or an admission webhook."""


class Gone(ApiError):
    """The version asked for is compacted away: list anew."""


class Unreachable(ApiError):
    """No useful answer within the time and the retries allowed.

    Attributes:
        retry_after: The server's Retry-After header, as it came.
    """

    def __init__(self, message: str, *, status: int = 0, retry_after: str | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class NameTaken(OperatorError):
    """An object that is not ours has the name that a child needs. It is left alone."""


class SpecError(OperatorError):
    """A spec cannot be served as written; the message names the field.

    Attributes:
        reason: CamelCase, the reason of the condition Accepted.
    """

    def __init__(self, message: str, *, reason: str = "InvalidSpec") -> None:
        super().__init__(message)
        self.reason = reason
