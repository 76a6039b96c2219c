"""All of the metrics API in this copy: the poller, the server, their upkeep."""

import asyncio
import logging
import random
from collections.abc import Callable

import aiohttp

from wenxin_operator import load
from wenxin_operator.cluster import Cluster
from wenxin_operator.load import Load
from wenxin_operator.load_poller import LoadPoller
from wenxin_operator.metrics_api.callers import FrontProxy, Reviews
from wenxin_operator.metrics_api.certificates import Credentials
from wenxin_operator.metrics_api.server import MetricsApi
from wenxin_operator.metrics_api.upkeep import Upkeep
from wenxin_operator.names import Raw
from wenxin_operator.settings import Settings
from wenxin_operator.store import Store
from wenxin_operator.telemetry import Telemetry

logger = logging.getLogger(__name__)


def name_of(settings: Settings) -> str:
    """Of the Service and the Secret, as the chart calls them; the lease has the release's own name."""
    return f"{settings.lease_name}-metrics-api"


class MetricsService:
    """What a copy runs where metrics.provider is embedded.

    Args:
        settings: How.
        store: What is known of the cluster.
        cluster: The API server.
        telemetry: What is counted.
        leads: Whether this copy holds the lease.
        filled: Waits until the store is filled.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        cluster: Cluster,
        telemetry: Telemetry,
        *,
        leads: Callable[[], bool],
        filled: asyncio.Event,
    ) -> None:
        self._settings, self._filled = settings, filled
        self._session: aiohttp.ClientSession | None = None
        self._poller = LoadPoller(
            store,
            self._ask,
            interval=settings.metrics_interval,
            chance=random.random,
            counted=telemetry.polled,
        )
        self._api = MetricsApi(store, self._poller, Reviews(cluster.send), telemetry.metrics_answered)
        self._upkeep = Upkeep(
            cluster.send,
            namespace=settings.lease_namespace,
            name=name_of(settings),
            leads=leads,
            exchange=self._exchange,
        )
        telemetry.show_samples(lambda: len(self._poller))

    async def run(self) -> None:
        """Poll and answer until cancelled."""
        await self._filled.wait()
        port = await self._api.listen(self._settings.http_host, self._settings.metrics_https_port)
        logger.info("custom.metrics.k8s.io on port %d", port)
        # A connection for each question: thousands of idle ones would cost more memory than they save time.
        connections = aiohttp.TCPConnector(limit=0, force_close=True)
        try:
            async with aiohttp.ClientSession(connector=connections) as self._session:
                await asyncio.gather(self._poller.run(), self._upkeep.run())
        finally:
            await self._api.close()

    async def _ask(self, pod: Raw) -> Load | None:
        return await load.ask(self._session, pod) if self._session else None

    async def _exchange(self, held: Credentials, front: FrontProxy) -> None:
        """Nobody is answered before every pod was asked once: else an autoscaler takes them all for missing."""
        await self._poller.warm.wait()
        await self._api.exchange(held, front)
