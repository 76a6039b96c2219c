"""Starts every part of this copy in one loop, and decides what ends it.

    resync -> store filled -> watch
                           -> lease taken -> workers

Watches start once every kind could be listed, so a CustomResourceDefinition that comes late is waited for. A signal
ends the copy in order: workers finish their passes, the lease is given back. Whatever else ends is an error.
"""

import asyncio
import datetime as dt
import logging
import random
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Literal

import aiohttp

from wenxin_operator.cluster import Cluster
from wenxin_operator.connection import Count, Endpoint, KopfLists, find
from wenxin_operator.feed import Feed
from wenxin_operator.handlers import Watch
from wenxin_operator.lease import Elector, Timing
from wenxin_operator.metrics_api.service import MetricsService
from wenxin_operator.names import OWNER_LABEL, RESOURCES, Key, selector_of
from wenxin_operator.probes import Probes
from wenxin_operator.reconcile import Outcome, reconcile
from wenxin_operator.resync import Resync
from wenxin_operator.settings import Settings
from wenxin_operator.store import Store
from wenxin_operator.telemetry import ABOUT, Telemetry
from wenxin_operator.work_queue import WorkQueue, work

logger = logging.getLogger(__name__)


async def operate(settings: Settings, environment: Mapping[str, str]) -> None:
    """Run a copy until a signal.

    Raises:
        OperatorError: it can not go on; the error's exit code says why.
    """
    endpoint = find(settings.kubeconfig, environment)
    telemetry = Telemetry()
    logged_in, for_lease = (
        endpoint.session(Count(telemetry.requested), timeout=settings.request_timeout) for _ in range(2)
    )
    async with logged_in as session, for_lease as lease_session, aiohttp.ClientSession() as pods:
        copy = Copy(settings, endpoint, session, telemetry, pods, lease_session)
        runner, port = await copy.probes().listen(settings.http_host, settings.http_port)
        served = ", ".join(settings.watch_namespaces) or "the whole cluster"
        logger.info("serving %s at %s; probes and metrics on port %d", served, endpoint.server, port)
        try:
            await copy.run()
        finally:
            await runner.cleanup()


class Copy:
    """One copy of the operator: its parts, and how they live together.

    Args:
        settings: How to run.
        endpoint: The API server.
        session: Logged in there.
        telemetry: What is counted.
        pods: A plain session, for asking pods: the API server's credentials are nothing for them.
        lease_session: Logged in there, for the lease alone. Of the connections that others left open, many may have
            fallen silent at once; to try one after another would take longer than the lease has.
    """

    def __init__(
        self,
        settings: Settings,
        endpoint: Endpoint,
        session: aiohttp.ClientSession,
        telemetry: Telemetry,
        pods: aiohttp.ClientSession,
        lease_session: aiohttp.ClientSession,
    ) -> None:
        self._settings, self._endpoint, self._telemetry = settings, endpoint, telemetry
        self._queue: WorkQueue[Key] = WorkQueue(initial=settings.backoff_initial, maximum=settings.backoff_max)
        self._store = Store(tuple(OWNER_LABEL.values()))
        self._feed = Feed(self._store, self._queue, random.random)
        self._cluster = Cluster(
            session,
            endpoint.server,
            identity=settings.identity,
            written=self._feed.written,
            deleted=self._feed.gone,
            pods=pods,
        )
        self._resync = _resync(settings, self._cluster, self._feed)
        self._elector = _elector(settings, Cluster(lease_session, endpoint.server, identity=settings.identity))
        self._metrics = MetricsService(
            settings,
            self._store,
            self._cluster,
            telemetry,
            leads=lambda: self._elector.leading,
            filled=self._resync.filled,
        )
        self._leading, self._stop = asyncio.Event(), asyncio.Event()
        telemetry.show(
            queue=lambda: len(self._queue),
            running=lambda: self._queue.running,
            age=lambda: self._resync.age,
            leader=lambda: self._elector.leading,
            resources=self._store.every,
        )

    def probes(self) -> Probes:
        """What this copy says about its health."""
        return Probes(
            age=lambda: self._resync.age,
            longest_age=self._settings.watch_age,
            filled=self._resync.filled.is_set,
            telemetry=self._telemetry,
        )

    async def run(self) -> None:
        """Run until a signal.

        Raises:
            OperatorError: LeaseLost, above all.
        """
        self._take_signals()
        workers = asyncio.create_task(self._work())
        others = [asyncio.create_task(life) for life in self._lives()]
        try:
            ended, _ = await asyncio.wait((workers, *others), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*ended)
            self._queue.close()
            if self._leading.is_set():
                await asyncio.wait([workers], timeout=self._settings.shutdown_timeout)
        finally:
            for life in (workers, *others):
                life.cancel()
            await asyncio.gather(workers, *others, return_exceptions=True)
            await self._elector.release()

    def _lives(self) -> Iterator[Coroutine[Any, Any, object]]:
        """All that runs until this copy ends, but for the workers."""
        yield from (self._stop.wait(), self._resync.run(), self._watch(), self._lead())
        if self._settings.metrics_provider == "embedded":
            yield self._metrics.run()

    async def _watch(self) -> None:
        await self._resync.filled.wait()
        kinds = {kind: resource for kind, resource in RESOURCES.items() if self._store.serves(kind)}
        selectors = {resource.plural: selector_of(kind) for kind, resource in kinds.items()}
        lists = KopfLists(selectors, listed=self._resync.relist)
        watch = Watch(
            self._feed,
            server=self._endpoint.server,
            session=lambda: self._endpoint.session(
                lists, Count(self._telemetry.requested), timeout=self._settings.request_timeout
            ),
            kinds=kinds,
            namespaces=self._settings.watch_namespaces,
            request_timeout=self._settings.request_timeout,
            silence=self._settings.watch_silence,
        )
        await watch.run(started=self._take_signals)

    async def _lead(self) -> None:
        await self._resync.filled.wait()
        await self._elector.acquire()
        self._leading.set()
        await self._elector.hold()

    async def _work(self) -> None:
        await self._leading.wait()
        await asyncio.gather(*(work(self._queue, self._visit) for _ in range(self._settings.workers)))

    async def _visit(self, key: Key) -> float | None:
        """One pass, if nobody else can be making one."""
        ABOUT.set(key)
        if not self._elector.valid:
            return self._settings.lease_retry_period
        began = time.perf_counter()
        outcome = Outcome(error=RuntimeError("the pass itself failed"))
        try:
            outcome = await reconcile(key, self._store, self._cluster, self._settings, dt.datetime.now(dt.UTC))
        finally:
            self._telemetry.passed(key.kind, _word(outcome), time.perf_counter() - began)
        if outcome.error:
            raise outcome.error
        return outcome.requeue_after

    def _take_signals(self) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, self._signalled, each)

    def _signalled(self, which: signal.Signals) -> None:
        logger.info("%s: finishing the passes under way", which.name)
        self._stop.set()


def _word(outcome: Outcome) -> Literal["changed", "unchanged", "failed"]:
    if outcome.error:
        return "failed"
    return "changed" if outcome.changed else "unchanged"


def _resync(settings: Settings, cluster: Cluster, feed: Feed) -> Resync:
    return Resync(
        cluster, feed, namespaces=settings.watch_namespaces, interval=settings.resync_interval, chance=random.random
    )


def _elector(settings: Settings, cluster: Cluster) -> Elector:
    timing = Timing(
        duration=settings.lease_duration,
        renew_deadline=settings.lease_renew_deadline,
        retry_period=settings.lease_retry_period,
    )
    return Elector(
        cluster,
        namespace=settings.lease_namespace,
        name=settings.lease_name,
        identity=settings.identity,
        timing=timing,
    )
