"""What can go wrong in the runtime, as one tree.

- `RuntimeFailure` ends the process and goes to the termination log with its reason
    - `ConfigError` a flag or a combination of flags
    - `CheckpointError` the model directory: missing file, layout, dtype, truncated shard
    - `EngineDied` the engine process is gone
    - `RankLost` a process that holds a part of the model is gone
    - `GroupMismatch` the processes that share a model differ: version, checkpoint, flags, devices
    - `DownloadError` a checkpoint could not be fetched; exit codes 10-19: run again, 20-29: mend first
        - `DownloadInterrupted`, `DownloadFailed`, `DownloadBusy`
        - `SourceNotFound`, `Unauthorized`, `NotEnoughSpace`, `ChecksumMismatch`, `InvalidListing`, `InsecureSource`
- `RequestError` ends one request and becomes an OpenAI error body
    - `InvalidRequest` 400
    - `ModelNotFound` 404
    - `Conflict` 409
    - `RequestTooLarge` 413
    - `Overloaded` 503 with Retry-After
    - `EngineUnavailable` 503 with Retry-After
    - `GenerationFailed` 500
"""


class RuntimeFailure(Exception):
    """The process cannot go on.

    Attributes:
        reason: CamelCase, becomes the reason of the condition that the operator shows.
        exit_code: What the process exits with.
    """

    reason = "RuntimeFailure"
    exit_code = 1


class ConfigError(RuntimeFailure):
    """A flag's value, or a combination of flags, makes no sense."""

    reason = "InvalidFlags"
    exit_code = 2


class CheckpointError(RuntimeFailure):
    """The model directory cannot be served; the message names the file and what to do."""

    reason = "InvalidCheckpoint"
    exit_code = 3


class RankLost(RuntimeFailure):
    """A process that holds a part of the model has ended, and nothing can be computed without it."""

    reason = "RankLost"
    exit_code = 4

    def __init__(self, message: str, *, reason: str | None = None, exit_code: int | None = None) -> None:
        """Take the place of another reason where the process has told one."""
        super().__init__(message)
        self.reason = reason or type(self).reason
        self.exit_code = exit_code or type(self).exit_code


class GroupMismatch(RuntimeFailure):
    """The processes that share a model do not agree; the message names the rank, its machine and what differs."""

    reason = "GroupMismatch"
    exit_code = 2


class EngineDied(RuntimeFailure):
    """The engine process ended, on its own or with a reason that it reported."""

    reason = "EngineDied"
    exit_code = 4

    def __init__(self, message: str, *, reason: str | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason or type(self).reason
        self.exit_code = exit_code or type(self).exit_code


class DownloadError(RuntimeFailure):
    """A checkpoint could not be fetched. What has arrived is kept, and the same command goes on from there."""


class DownloadInterrupted(DownloadError):
    """A signal asked to stop."""

    reason = "DownloadInterrupted"
    exit_code = 10


class DownloadFailed(DownloadError):
    """The source did not answer, or not as it should, and went on so after all attempts."""

    reason = "DownloadFailed"
    exit_code = 11


class DownloadBusy(DownloadError):
    """Another process fetches into the same directory."""

    reason = "DownloadBusy"
    exit_code = 12


class SourceNotFound(DownloadError):
    """There is no such repository, revision, bucket or file, or it is not shown to these credentials."""

    reason = "NotFound"
    exit_code = 20


class Unauthorized(DownloadError):
    """The credentials are missing, refused, or not enough."""

    reason = "Unauthorized"
    exit_code = 21


class NotEnoughSpace(DownloadError):
    """The volume cannot hold the checkpoint."""

    reason = "NotEnoughSpace"
    exit_code = 22


class ChecksumMismatch(DownloadError):
    """A file was fetched several times and is not what its checksum says."""

    reason = "ChecksumMismatch"
    exit_code = 23


class InvalidListing(DownloadError):
    """What the source says it has is no checkpoint, or nothing to be trusted."""

    reason = "InvalidListing"
    exit_code = 24


class InsecureSource(DownloadError):
    """The source's certificate is not trusted, or it leads from https to plain http."""

    reason = "InsecureSource"
    exit_code = 25


class RequestError(Exception):
    """One request cannot be answered; nothing else is disturbed.

    Attributes:
        status: HTTP status code.
        type: OpenAI's error type.
        param: The request's field at fault, where there is one.
        code: OpenAI's machine-readable code, where there is one.
        retry_after: Seconds for the Retry-After header, where a retry makes sense.
    """

    status = 500
    type = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after


class InvalidRequest(RequestError):
    """The request is malformed or asks for what this model cannot do."""

    status = 400
    type = "invalid_request_error"


class ModelNotFound(RequestError):
    """The request names a model that is not served here."""

    status = 404
    type = "invalid_request_error"


class Conflict(RequestError):
    """Only one such request at a time, and another one is being served."""

    status = 409
    type = "invalid_request_error"


class RequestTooLarge(RequestError):
    """The body is larger than --max-request-bytes."""

    status = 413
    type = "invalid_request_error"


class Overloaded(RequestError):
    """All slots and all queue places are taken."""

    status = 503
    type = "service_unavailable"


class EngineUnavailable(RequestError):
    """The engine is loading, the server stops, or the engine died while it worked on the request."""

    status = 503
    type = "service_unavailable"


class GenerationFailed(RequestError):
    """The engine gave this request up, or the server made a mistake; other requests go on."""

    status = 500
    type = "internal_error"
