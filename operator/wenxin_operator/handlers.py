"""kopf's part: watch events -> the feed. The only module that imports kopf.

`on.event` handlers return None and never raise, so kopf has nothing to remember on the objects: no finalizer, no
annotation, no write at all. Peering, posting of events and scanning for new kinds are off; credentials are ours.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import aiohttp
import kopf

from wenxin_operator.errors import WatchLost
from wenxin_operator.feed import Feed
from wenxin_operator.names import Resource

logger = logging.getLogger(__name__)

GUARD_SECONDS = 1.0  # between two looks at kopf's watchers
BEGIN_SECONDS = 30.0  # in which kopf must have begun all watches


class Patience:
    """Seconds between kopf's attempts at one request, without an end: liveness decides when it is too long."""

    def __iter__(self) -> Iterator[float]:
        """First short, then about ten seconds."""
        yield from (0.5, 1, 2, 3, 5, 8)
        while True:
            yield random.uniform(8, 12)  # noqa: S311 - jitter


class Watch:
    """All watches of this copy.

    Args:
        feed: Where changes go.
        server: Base URL of the API server.
        session: Makes a logged-in session, each time anew.
        kinds: What is watched, by kind.
        namespaces: What is watched; empty is the whole cluster.
        request_timeout: Seconds for one request that is no watch.
        silence: Seconds after which a watch that tells nothing is begun anew. A connection may be lost without either
            side being told; only the API server's bookmarks, one each minute, tell it from one where nothing happens.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        server: str,
        session: Callable[[], aiohttp.ClientSession],
        kinds: Mapping[str, Resource],
        namespaces: Sequence[str],
        request_timeout: float,
        silence: float,
    ) -> None:
        self._feed, self._server, self._session, self._kinds = feed, server, session, kinds
        self._namespaces, self._request_timeout, self._silence = namespaces, request_timeout, silence

    async def run(self, started: Callable[[], None]) -> None:
        """Watch until cancelled, or raise what ended kopf.

        Args:
            started: Called when kopf is up. kopf takes SIGTERM and SIGINT for itself: time to take them back.
        """
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=self._settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        started()
        tasks = [*tasks, asyncio.create_task(self._guard())]
        # Not kopf.run_tasks: when it ends, it also cancels every task of the loop that is younger than it.
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*ended)

    async def _guard(self) -> None:
        """A watcher that fails is only logged by kopf, which lives on without it. A new process starts afresh."""
        wanted = len(self._kinds) * max(1, len(self._namespaces))
        alive, patience = 0, BEGIN_SECONDS
        while patience > 0:
            await asyncio.sleep(GUARD_SECONDS)
            alive = sum(task.get_name().startswith("watcher for ") for task in asyncio.all_tasks())
            patience = GUARD_SECONDS if alive == wanted else patience - GUARD_SECONDS
        raise WatchLost(f"only {alive} of {wanted} watches are alive; the log says what ended the others")

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for kind, resource in self._kinds.items():
            kopf.on.event(resource.api_version, resource.plural, id=kind, registry=registry)(self._handler(kind))
        return registry

    def _handler(self, kind: str) -> Callable[..., Any]:
        """A coroutine, for kopf would run a plain function in a thread. It never raises: kopf would try it again."""

        async def handle(event: kopf.RawEvent, **_: Any) -> None:
            try:
                take_in = self._feed.gone if event["type"] == "DELETED" else self._feed.seen
                take_in(kind, dict(event["object"]))
            except Exception:
                logger.exception("an event about a %s was not taken in", kind)

        return handle

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=self._server, aiohttp_session=self._session())

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.networking.request_timeout = self._request_timeout
        settings.networking.error_backoffs = Patience()
        settings.watching.connect_timeout = self._request_timeout
        settings.watching.inactivity_timeout = self._silence
        settings.queueing.idle_timeout = 1.0  # kopf keeps a task per object for so long after its last event
        settings.process.ultimate_exiting_timeout = None
        return settings
