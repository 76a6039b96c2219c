"""The pod's last words: JSON of at most 4 KiB that the kubelet copies into the container's status.

The operator reads it there, so a pod can say why it failed, or what a Job found, without an API token.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from wenxin_runtime.errors import RuntimeFailure

DEFAULT_PATH = "/dev/termination-log"
# The kubelet keeps the last 4096 bytes of the file: https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
LIMIT_BYTES = 4096


def report_failure(failure: BaseException) -> None:
    """Leave `{"reason", "message"}` of `failure` in the termination log."""
    reason = failure.reason if isinstance(failure, RuntimeFailure) else "InternalError"
    report({"reason": reason, "message": str(failure) or type(failure).__name__})


def report(result: Mapping[str, object]) -> None:
    """Leave `result` in the termination log; outside a pod, where the file cannot be written, do nothing."""
    path = Path(os.environ.get("WENXIN_TERMINATION_LOG", DEFAULT_PATH))
    try:
        path.write_bytes(_fitted(dict(result)))
    except OSError:
        return


def _fitted(result: dict[str, object]) -> bytes:
    text = _encoded(result)
    message = str(result.get("message", ""))
    while len(text) > LIMIT_BYTES and message:
        # A character takes at most 6 bytes ("\u0000"), so this never cuts more than it must.
        message = message[: len(message) - max(1, (len(text) - LIMIT_BYTES) // 6)]
        text = _encoded({**result, "message": message + "…"})
    return text


def _encoded(result: Mapping[str, object]) -> bytes:
    return json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")
