"""`wenxin-operator crds`: the CustomResourceDefinitions of this version, put into a cluster and never taken back.

Helm installs the files of a chart's crds/ once and never changes them, so the chart runs `crds apply` before each
install and upgrade (docs/adr/0020). What a newer version has written stays: the older operator reads it as well, and
taking fields away would drop them from every resource that is written next.
"""

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Final, Protocol

from wenxin_operator.errors import OperatorError
from wenxin_operator.names import ANNOTATION_VERSION, Raw

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.2
_RELEASE = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(.*)")


class Definitions(Protocol):
    """The two requests that this takes. Both raise errors.ApiError."""

    async def read_definition(self, name: str) -> Raw | None:
        """The CustomResourceDefinition, None when absent."""
        ...

    async def apply_definition(self, manifest: Raw) -> Raw:
        """Server-side apply of a whole CustomResourceDefinition; returns the live one."""
        ...


async def bring_up(definitions: Definitions, wanted: Iterable[Raw], *, patience: float) -> None:
    """Apply each definition, unless a newer version wrote the live one; return when all are served.

    Args:
        definitions: The API server.
        wanted: The definitions.
        patience: Seconds in which the API server must have begun to serve a definition.

    Raises:
        OperatorError: one is refused, or not served in time.
    """
    for manifest in wanted:
        name = manifest["metadata"]["name"]
        live = await definitions.read_definition(name)
        if live and _release(live) > _release(manifest):
            logger.warning("%s is of the newer version %s, and stays as it is", name, _version(live))
            continue
        await definitions.apply_definition(manifest)
        await _served(definitions, name, patience)
        logger.info("%s is of version %s", name, _version(manifest))


async def _served(definitions: Definitions, name: str, patience: float) -> None:
    problem = "no condition yet"
    try:
        async with asyncio.timeout(patience):
            while problem := _problem(await definitions.read_definition(name) or {}):  # noqa: ASYNC110 - another's event
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise OperatorError(f"{name} is applied, but not served after {patience:g} s: {problem}") from None


def _problem(definition: Raw) -> str:
    """Why a definition is not served; nothing when it is."""
    conditions = {each["type"]: each for each in definition.get("status", {}).get("conditions") or ()}
    if conditions.get("Established", {}).get("status") == "True":
        return ""
    return "; ".join(f"{kind}: {each.get('message', '')}" for kind, each in conditions.items()) or "no condition yet"


def _version(definition: Raw) -> str:
    return str((definition["metadata"].get("annotations") or {}).get(ANNOTATION_VERSION, ""))


def _release(definition: Raw) -> tuple[int, int, int, bool]:
    """Sorts versions; those before 1.2.3, such as 1.2.3-rc1, as one. What has no version is older than all."""
    match = _RELEASE.fullmatch(_version(definition))
    return (int(match[1]), int(match[2]), int(match[3]), not match[4]) if match else (-1, 0, 0, False)
