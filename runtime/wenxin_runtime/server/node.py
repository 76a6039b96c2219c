"""A further machine of a group: it starts its ranks, answers the probes of its pod, and ends with the group.

No request is served here, and nothing is decided: the leader on node 0 does both.

SIGTERM   the leader is told, stops as if it had been signalled, and ends the group when its clients have their
          answers; at most for --shutdown-delay, --drain-timeout and a little; at once where the group has not formed
          yet; exit 0
again     at once
"""

import asyncio
import contextlib
import logging
import signal
import socket
from dataclasses import dataclass, field

import msgspec
import prometheus_client
import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import RankLost
from wenxin_runtime.parallel import children
from wenxin_runtime.parallel.pulse import ROUNDS
from wenxin_runtime.parallel.wire import Farewell, Pulse, Welcome
from wenxin_runtime.server.http import ErrorBody, ErrorDetail, json_response
from wenxin_runtime.server.serve import Stop, http_server, listen, url_of
from wenxin_runtime.server.service import Health
from wenxin_runtime.telemetry import build_info, set_up_logging

logger = logging.getLogger(__name__)

_END_WITHIN_SECONDS = 5.0
_LONGER_THAN_THE_LEADER_SECONDS = 15.0

_decode = msgspec.json.Decoder(Welcome | Pulse | Farewell).decode


def serve_node(config: RuntimeConfig) -> None:
    """Compute with the group until it ends.

    Raises:
        ConfigError: the address cannot be had.
        RankLost: a rank is lost, or the leader; or they told another reason.
    """
    set_up_logging(config.log_level)
    listener = listen(config.host, config.port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_signalled(Node(config), listener))


async def _until_signalled(node: "Node", listener: socket.socket) -> None:
    stop, loop = Stop(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask, 0.0)
    http = http_server(node.app())
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    logger.info("listening on %s for probes; requests go to node 0", url_of(listener))
    try:
        await node.run(stop)
    finally:
        http.should_exit = True
        await serving


@dataclass(slots=True)
class _Rank:
    """One of this machine's ranks, as its reports show it."""

    name: str
    process: asyncio.subprocess.Process
    welcomed: asyncio.Event = field(default_factory=asyncio.Event)
    pulse: Pulse = Pulse()  # noqa: RUF009 - it is frozen
    every_seconds: float = 0.0
    silent: int = 0
    last_words: Farewell | None = None

    async def ended(self) -> Farewell:
        """Return how it ended; also when it is frozen."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._frozen())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        return done.pop().result()

    async def _read(self) -> Farewell:
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        async for line in self.process.stdout:
            self.silent = 0
            match _decode(line):
                case Welcome() as welcome:
                    self.every_seconds = welcome.pulse_seconds
                    self.welcomed.set()
                case Pulse() as pulse:
                    self.pulse = pulse
                case Farewell() as farewell:
                    self.last_words = farewell
        status = await self.process.wait()
        if self.last_words:
            return self.last_words
        lost = f"{self.name} {children.how(status)}; the group cannot go on without it"
        return Farewell(RankLost.reason, lost, RankLost.exit_code) if status else Farewell()

    async def _frozen(self) -> Farewell:
        await self.welcomed.wait()
        while self.silent <= ROUNDS:
            await asyncio.sleep(self.every_seconds)
            self.silent += 1
        lost = f"{self.name} has given no sign of life for {ROUNDS * self.every_seconds:g} s: it hangs or was frozen"
        return Farewell(RankLost.reason, lost, RankLost.exit_code)


class Node:
    """The ranks of one machine."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._config = config
        self._ranks: list[_Rank] = []
        self._registry = CollectorRegistry()
        build_info(self._registry)

    async def run(self, stop: Stop) -> None:
        """Start the ranks; return when the group has ended, or when we may leave it.

        Raises:
            RankLost: see `serve_node`.
        """
        leader = f"{self._config.master_addr}:{self._config.master_port}"
        try:
            for rank in children.ranks_of(self._config):
                self._ranks.append(await self._started(rank, leader))
            ended = asyncio.create_task(self._ended())
            asked = asyncio.create_task(stop.asked.wait())
            await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            if not stop.asked.is_set():
                _raise(await ended)
            elif all(rank.welcomed.is_set() for rank in self._ranks):
                await self._linger(ended, stop)
            ended.cancel()
            logger.info("stopped")
        finally:
            await self._end()

    def app(self) -> Starlette:
        """Put the routes together."""
        routes = [
            Route("/health", self._health),
            Route("/health/ready", self._ready),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._refuse})

    async def _started(self, rank: int, leader: str) -> _Rank:
        process = await asyncio.create_subprocess_exec(
            *children.command(self._config, rank, leader),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            # In a session of its own, so that Ctrl-C in a terminal reaches us alone.
            start_new_session=True,
        )
        name = children.name_of(self._config, rank)
        logger.info("%s is process %d; the leader is expected at %s", name, process.pid, leader)
        return _Rank(name, process)

    async def _ended(self) -> Farewell:
        """Return how the first rank ended that did; one that could not say it has the better reason."""
        endings = {asyncio.create_task(rank.ended()): rank for rank in self._ranks}
        done, others = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
        if others:
            await asyncio.wait(others, timeout=_END_WITHIN_SECONDS)
        for task in endings:
            task.cancel()
        return min(done, key=lambda task: endings[task].last_words is not None).result()

    async def _linger(self, ended: "asyncio.Task[Farewell]", stop: Stop) -> None:
        limit = self._config.shutdown_delay + self._config.drain_timeout + _LONGER_THAN_THE_LEADER_SECONDS
        logger.info("told to stop: computing until the leader ends the group, for at most %g s", limit)
        for rank in self._ranks:
            with contextlib.suppress(ProcessLookupError):
                rank.process.terminate()  # it tells the leader
        hurried = asyncio.create_task(stop.hurried.wait())
        await asyncio.wait({ended, hurried}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()

    async def _end(self) -> None:
        for rank in self._ranks:
            with contextlib.suppress(ProcessLookupError):
                rank.process.kill()
            await rank.process.wait()

    async def _health(self, _: Request) -> Response:
        return json_response(Health("alive"))

    async def _ready(self, _: Request) -> Response:
        pulses = [rank.pulse for rank in self._ranks]
        if pulses and all(pulse.loaded for pulse in pulses):
            return json_response(Health("ready"))
        done, total = sum(pulse.done for pulse in pulses), sum(pulse.total for pulse in pulses)
        waits = not all(rank.welcomed.is_set() for rank in self._ranks)
        what = "the ranks of all nodes have not found each other yet" if waits else "the ranks are loading the weights"
        return json_response(Health("loading", what, done, total), 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(prometheus_client.generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def _refuse(self, _: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        what = f"this is node {self._config.node_rank} of a group and serves no requests: they go to node 0"
        detail = ErrorDetail(f"{what} ({self._config.master_addr})", "invalid_request_error", None, "not_the_leader")
        return json_response(ErrorBody(detail), status)


def _raise(farewell: Farewell) -> None:
    if farewell.exit_code:
        raise RankLost(farewell.message, reason=farewell.reason, exit_code=farewell.exit_code)
