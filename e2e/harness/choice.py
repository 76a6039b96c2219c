"""Which kind of cluster: what was asked for, else what runs, else what this machine can make."""

import os

from e2e.harness.backend import Backend
from e2e.harness.errors import HarnessError
from e2e.harness.existing import Existing
from e2e.harness.kind import Kind, docker_answers
from e2e.harness.local import Local
from e2e.harness.site import Site

KINDS = ("auto", "local", "kind", "existing")
BACKEND_VARIABLE = "WENXIN_BACKEND"
NAME_VARIABLE = "WENXIN_CLUSTER"


def backend(kind: str | None = None) -> Backend:
    """The backend for a word of `KINDS`, by default $WENXIN_BACKEND or auto."""
    kind = kind or os.environ.get(BACKEND_VARIABLE, "auto")
    local = Local(os.environ.get(NAME_VARIABLE, "e2e"))
    if kind == "auto":
        return local if _local_exists(local.site) or not docker_answers() else Kind()
    match kind:
        case "local":
            return local
        case "kind":
            return Kind()
        case "existing":
            return Existing()
    raise HarnessError(f"There is no backend {kind!r}: {', '.join(KINDS)}.")


def _local_exists(site: Site) -> bool:
    return site.directory.exists()
