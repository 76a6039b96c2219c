"""Lists every kind again and again: what a watch missed is found, and its age says whether this copy still sees.

A kind that is optional is looked for in each round. One that comes later is known from then on, but watched only by a
copy that starts after it; until then it is seen once a round.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Protocol

from wenxin_operator.cluster import Listing
from wenxin_operator.errors import ApiError, Forbidden, NotFound
from wenxin_operator.feed import Feed
from wenxin_operator.names import RESOURCES, Raw

logger = logging.getLogger(__name__)

FIRST_TRY_SECONDS = 2.0  # between attempts while the store has never been filled


class Lister(Protocol):
    """Makes full lists."""

    async def list(self, kind: str, namespace: str | None, keep: Callable[[Raw], Raw]) -> Listing:
        """All objects of a kind, each as `keep` makes it while its page is at hand. Raises ApiError."""
        ...


class Resync:
    """Keeps the store honest.

    Args:
        lister: Where lists come from.
        feed: Where they go.
        namespaces: What is served; empty is the whole cluster.
        interval: Seconds between rounds, shortened at random by up to a tenth.
        chance: A number in [0, 1).
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        lister: Lister,
        feed: Feed,
        *,
        namespaces: Collection[str],
        interval: float,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lister, self._feed, self._interval, self._chance, self._clock = lister, feed, interval, chance, clock
        self._scopes = [(kind, namespace) for kind in RESOURCES for namespace in namespaces or (None,)]
        self._succeeded = dict.fromkeys(self._scopes, clock())
        self._missing = set(self._scopes)
        self._found: set[str] = set()
        self._due: set[str] = set()  # kinds that are to be listed before the next round
        self._early = asyncio.Event()
        self.filled = asyncio.Event()

    @property
    def age(self) -> float:
        """Seconds since the kind that is longest without a successful list had one (or since the start)."""
        return self._clock() - min(self._succeeded.values())

    def relist(self, plural: str) -> None:
        """List a kind now: its watch begins anew, and tells nothing of what was before."""
        self._due |= {kind for kind, resource in RESOURCES.items() if resource.plural == plural}
        self._early.set()

    async def run(self) -> None:
        """List for ever; failures are logged and show in the age."""
        while True:
            await self._round()
            if self.filled.is_set():
                await self._list_due_kinds(self._interval * (1 - self._chance() / 10))
            else:
                await asyncio.sleep(FIRST_TRY_SECONDS)

    async def _list_due_kinds(self, seconds: float) -> None:
        """Wait for the next round, and list what is due meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self._early.wait()
                    self._early.clear()
                    while self._due:
                        await self._list_everywhere(self._due.pop())

    async def _list_everywhere(self, kind: str) -> None:
        for scope in self._scopes:
            if scope[0] == kind:
                await self._list(*scope)

    async def _round(self) -> None:
        for kind, namespace in self._scopes:
            await self._list(kind, namespace)
        if self._missing:
            return
        self._feed.look_at_everything(within=min(self._interval / 4, 30.0) if self.filled.is_set() else 0.0)
        self.filled.set()

    async def _list(self, kind: str, namespace: str | None) -> None:
        try:
            listing = await self._lister.list(kind, namespace, lambda thing: self._feed.kept(kind, thing))
        except ApiError as error:
            if not self._may_lack(kind, error):
                where = namespace or "the cluster"
                logger.warning("cannot list %s in %s: %s%s", kind, where, error, _hint(kind, error))
                return
        else:
            self._feed.listed(kind, namespace, listing.items, listing.version)
            self._found.add(kind)
        self._succeeded[kind, namespace] = self._clock()
        self._missing.discard((kind, namespace))

    def _may_lack(self, kind: str, error: ApiError) -> bool:
        """Whether the cluster is just without this kind. One that was there and is no more is an error."""
        return isinstance(error, NotFound) and RESOURCES[kind].optional and kind not in self._found


def _hint(kind: str, error: ApiError) -> str:
    if isinstance(error, NotFound):
        return f" (is the CustomResourceDefinition of {kind} installed? `kubectl apply -f crds/`)"
    return " (does the chart's RBAC cover this namespace?)" if isinstance(error, Forbidden) else ""
