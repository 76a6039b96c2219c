"""The life of the server process: listen at once, load, serve, and leave without cutting anybody off.

SIGTERM   not ready any more; for --shutdown-delay requests are still served; then new ones are refused, accepted
          ones finished for at most --drain-timeout; exit 0
SIGINT    the same without the delay
again     at once: what is open ends with an error

When another machine of the group is told to stop, this one does as if it had been, for it cannot go on alone.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import uvicorn
import uvloop
from starlette.types import ASGIApp

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import ConfigError, EngineDied, EngineUnavailable
from wenxin_runtime.ipc import Ready
from wenxin_runtime.server import app, served_model
from wenxin_runtime.server.answers.cache import AnswerCache, cache_of
from wenxin_runtime.server.engine_process import ENGINE_COMMAND
from wenxin_runtime.server.kserve.grpc_server import GrpcPort, open_port
from wenxin_runtime.server.service import Service, Stage
from wenxin_runtime.server.tracing import tracing_of
from wenxin_runtime.telemetry import Metrics, set_up_logging
from wenxin_runtime.weights import open_checkpoint
from wenxin_runtime.weights.digest import digest_tree

_BACKLOG = 2048
# Longer than the idle timeouts of common clients and proxies, so that they close first and never meet a reset.
_KEEP_ALIVE_SECONDS = 75
# For the last writes to clients that read slowly, after every answer has ended.
_FLUSH_SECONDS = 5

logger = logging.getLogger(__name__)


def serve(config: RuntimeConfig, command: Sequence[str] = ENGINE_COMMAND) -> None:
    """Serve until a signal asks to stop.

    Args:
        config: The flags.
        command: What starts the engine process; --to-engine, --from-engine and --config are added.

    Raises:
        RuntimeFailure: the process cannot go on; carries the exit code.
    """
    set_up_logging(config.log_level)
    listener = listen(config.host, config.port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_until_signalled(Server(config, listener, command)))


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be had; names the flags.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on --host {host} --port {port}: {error.strerror or error}") from error


def url_of(listener: socket.socket) -> str:
    """Spell where a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Stop:
    """The wish to stop, which can be repeated with more haste."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.delay_seconds = 0.0
        self._signalled = False

    def ask(self, delay_seconds: float) -> None:
        """Ask to stop, serving for another `delay_seconds`; asked again, at once."""
        if self._signalled:
            self.hurried.set()
        self._signalled = True
        self.begin(delay_seconds)

    def begin(self, delay_seconds: float) -> None:
        """Begin to stop, where it was not asked for by a signal: a signal that comes later does not mean haste."""
        if not self.asked.is_set():
            self.delay_seconds = delay_seconds
            self.asked.set()


class Server:
    """HTTP, engine and model of one process.

    Attributes:
        url: Where it listens.
        grpc_port: Where it listens for gRPC, once it runs; 0 where it does not.
        service: What the routes ask.
    """

    def __init__(self, config: RuntimeConfig, listener: socket.socket, command: Sequence[str]) -> None:
        """Put the parts together; nothing runs before `run`."""
        metrics = Metrics(slots=config.max_num_seqs)
        self.service = Service(config, metrics, tracing_of(config), cache_of(config, metrics.answers))
        self.url = url_of(listener)
        self.grpc_port = 0
        self._config = config
        self._command = command
        self._listener = listener
        self._http = http_server(app.build(self.service))

    async def run(self, stop: Stop) -> None:
        """Serve until asked to stop, and then as long as the drain takes.

        Raises:
            RuntimeFailure: --grpc-port cannot be had, the checkpoint is none, or the engine died.
        """
        grpc = await self._open_grpc()
        http = asyncio.create_task(self._http.serve(sockets=[self._listener]))
        logger.info("listening on %s", self.url)
        life = asyncio.create_task(self._live())
        asked = asyncio.create_task(stop.asked.wait())
        try:
            await asyncio.wait({life, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not life.done():
                await self._drain(stop)
            if isinstance(self.service.engine.state, EngineDied):
                raise self.service.engine.state
            if life.done():
                life.result()
            logger.info("stopped")
        finally:
            asked.cancel()
            self._http.should_exit = True
            await asyncio.gather(http, grpc.close(_FLUSH_SECONDS))
            life.cancel()
            await asyncio.gather(life, self.service.tracing.close(), return_exceptions=True)
            if self.service.answers is not None:
                await self.service.answers.close()

    async def _open_grpc(self) -> GrpcPort:
        try:
            opened = await open_port(self.service)
        except ConfigError:
            self._listener.close()
            raise
        self.grpc_port = opened.port
        return opened

    async def _live(self) -> NoReturn:
        """Start the engine and read the tokenizer beside it; run until the engine ends, and raise why."""
        checkpoint = await asyncio.to_thread(open_checkpoint, self._config.model_dir)
        reading = asyncio.create_task(asyncio.to_thread(served_model.read, self._config, checkpoint))
        engine = asyncio.create_task(self.service.engine.run(self._command))
        ready = asyncio.create_task(self.service.engine.ready.wait())
        identifying = asyncio.create_task(self._identify(self.service.answers, checkpoint.model_dir))
        try:
            await asyncio.wait({reading, engine}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                self.service.model = reading.result()
            await asyncio.wait({ready, engine}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not engine.done():
                self._announce()
            raise await engine
        finally:
            for task in (engine, reading, ready, identifying):
                task.cancel()
            await asyncio.gather(engine, reading, ready, identifying, return_exceptions=True)

    async def _identify(self, answers: AnswerCache | None, model_dir: Path) -> None:
        """Let the cache know what the answers depend on besides the request; until then nothing is cached."""
        if answers is None:
            return
        try:
            digest = await asyncio.to_thread(digest_tree, model_dir)
        except OSError as error:
            logger.warning("answers are not cached: the model cannot be identified: %s", error)
            return
        await self.service.engine.ready.wait()
        state = self.service.engine.state
        if isinstance(state, Ready):
            await answers.begin(f"{digest} {state.dtype} {self._config.quantization}")

    def _announce(self) -> None:
        config = self._config
        logger.info(
            "serving %s on %s/v1: up to %d tokens of prompt and answer, %d slots, %d queue places",
            *(", ".join(served_model.model_names(config)), self.url, self.service.max_model_len),
            *(config.max_num_seqs, config.queue_size),
        )

    async def _drain(self, stop: Stop) -> None:
        service = self.service
        if service.why_not_ready is None:  # else nobody was ever sent here
            service.stage = Stage.LEAVING
            logger.info("stopping: still serving for %g s", stop.delay_seconds)
            await _first_of(stop.hurried, seconds=stop.delay_seconds)
        service.stage = Stage.DRAINING
        logger.info("draining: %d running, %d waiting", service.engine.running, service.engine.waiting)
        await _first_of(service.engine.idle, stop.hurried, seconds=self._config.drain_timeout)
        if not service.engine.idle.is_set():
            logger.warning("giving up %d open sequences", service.engine.running + service.engine.waiting)
            service.engine.fail_all(EngineUnavailable("the server has stopped", code="draining", retry_after=1))


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(application: ASGIApp) -> uvicorn.Server:
    """Make the HTTP server of some routes; it stops when its `should_exit` is set."""
    return _Http(
        uvicorn.Config(
            application,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody asks where a request comes from
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_FLUSH_SECONDS,
        )
    )


async def _serve_until_signalled(server: Server) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.ask, server.service.config.shutdown_delay)
    loop.add_signal_handler(signal.SIGINT, stop.ask, 0.0)
    following = asyncio.create_task(_stop_with_the_group(server.service, stop))
    try:
        await server.run(stop)
    finally:
        following.cancel()


async def _stop_with_the_group(service: Service, stop: Stop) -> None:
    await service.engine.heartbeat.leaving.wait()
    if not stop.asked.is_set():
        logger.info("another node of the group has been told to stop: so is this one")
        stop.begin(service.config.shutdown_delay)


async def _first_of(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of `events` is set, for at most `seconds`."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
