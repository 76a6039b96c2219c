"""The operator's own HTTP: /healthz, /readyz, /metrics. A copy that is not the leader is as healthy and ready."""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from wenxin_operator.telemetry import Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the endpoints say.

    Attributes:
        age: Seconds since the oldest kind was listed in full.
        longest_age: The age at which this copy counts as blind, and is better restarted.
        filled: Whether the store has been filled.
        telemetry: The metrics.
    """

    age: Callable[[], float]
    longest_age: float
    filled: Callable[[], bool]
    telemetry: Telemetry

    async def listen(self, host: str, port: int) -> tuple[web.AppRunner, int]:
        """Serve until the runner is cleaned up.

        Returns:
            The runner, and the port, which is another where 0 was asked for.
        """
        application = web.Application()
        application.add_routes(
            [web.get("/healthz", self._health), web.get("/readyz", self._ready), web.get("/metrics", self._metrics)]
        )
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        return runner, runner.addresses[0][1]

    async def _health(self, _: web.Request) -> web.Response:
        age = self.age()
        if age > self.longest_age:
            return web.Response(status=503, text=f"no full list for {age:.0f} s (limit {self.longest_age:.0f} s)\n")
        return web.Response(text=f"ok, last full list {age:.0f} s ago\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if not self.filled():
            return web.Response(status=503, text="the store is not filled yet\n")
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self.telemetry.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )
