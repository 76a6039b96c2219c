"""The engine's process and the two sockets to it. Knows messages, no requests."""

import asyncio
import contextlib
import logging
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import zmq
import zmq.asyncio

from wenxin_runtime import config as runtime_config
from wenxin_runtime import ipc
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.ipc import STACKS_SIGNAL

ENGINE_COMMAND = (sys.executable, "-m", "wenxin_runtime.engine")

_QUIET_MS = 200
_GRACE_SECONDS = 2.0
_KILL_AFTER_SECONDS = 5.0
_WRITE_STACKS_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sockets:
    """Our ends; the addresses are for the engine, which connects."""

    to_engine: zmq.Socket[bytes]
    from_engine: zmq.asyncio.Socket
    to_engine_address: str
    from_engine_address: str


class EngineProcess:
    """A running engine. Made by `started`."""

    def __init__(self, process: asyncio.subprocess.Process, sockets: _Sockets) -> None:
        self._process = process
        self._to_engine = sockets.to_engine
        self._from_engine = sockets.from_engine
        self._listens = False

    def send(self, message: ipc.ToEngine) -> None:
        """Hand `message` over without waiting. An engine that is gone gets nothing; its end is reported elsewhere."""
        with contextlib.suppress(zmq.Again):
            self._to_engine.send(ipc.encode(message), zmq.NOBLOCK)

    async def receive(self, handle: Callable[[ipc.FromEngine], None]) -> int:
        """Give every message to `handle` until the process has ended and all that it said is handled.

        Returns:
            The exit status; negative where a signal ended it.
        """
        receiving = asyncio.create_task(self._receive(handle))
        exited = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({receiving, exited}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()  # a message that cannot be understood: the exception ends the server
        finally:
            receiving.cancel()
            exited.cancel()
        # What the engine said last may still be on its way through the socket.
        while await self._from_engine.poll(_QUIET_MS):
            handle(ipc.decode_from_engine(await self._from_engine.recv()))
        return self._process.returncode or 0

    async def stop(self) -> None:
        """Ask the engine to end; make it end where it does not listen, or not yet."""
        self.send(ipc.Shutdown())
        if self._listens and await self._ended_within(_GRACE_SECONDS):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            if await self._ended_within(_KILL_AFTER_SECONDS):
                return

    async def kill(self) -> None:
        """End an engine that hangs, after it has had a moment to write its stacks to the log.

        faulthandler writes them even where every thread is stuck; of a process that is frozen there are none.
        """
        for number, patience in ((STACKS_SIGNAL, _WRITE_STACKS_SECONDS), (signal.SIGKILL, _KILL_AFTER_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            if await self._ended_within(patience):
                return

    async def _receive(self, handle: Callable[[ipc.FromEngine], None]) -> None:
        while True:
            message = ipc.decode_from_engine(await self._from_engine.recv())
            self._listens = self._listens or isinstance(message, ipc.Ready)
            handle(message)

    async def _ended_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            return False
        return True


@contextlib.asynccontextmanager
async def started(config: RuntimeConfig, command: Sequence[str] = ENGINE_COMMAND) -> AsyncIterator[EngineProcess]:
    """Start the engine; on leaving, end it.

    Raises:
        ConfigError: there is no writable directory for the sockets.
    """
    with _socket_directory() as directory, _bound_sockets(directory) as sockets:
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--to-engine", sockets.to_engine_address, "--from-engine", sockets.from_engine_address),
            *("--config", runtime_config.to_json(config)),
            stdin=asyncio.subprocess.DEVNULL,
            # In a session of its own, so that Ctrl-C in a terminal reaches the server alone, which drains.
            start_new_session=True,
        )
        logger.info("engine process %d started", process.pid)
        engine = EngineProcess(process, sockets)
        try:
            yield engine
        finally:
            if process.returncode is None:
                await engine.stop()


@contextlib.contextmanager
def _bound_sockets(directory: str) -> Iterator[_Sockets]:
    context = zmq.Context()
    sockets = _Sockets(
        to_engine=context.socket(zmq.PUSH),
        from_engine=zmq.asyncio.Context.shadow(context).socket(zmq.PULL),
        to_engine_address=f"ipc://{directory}/to-engine",
        from_engine_address=f"ipc://{directory}/from-engine",
    )
    try:
        for socket, address in (
            (sockets.to_engine, sockets.to_engine_address),
            (sockets.from_engine, sockets.from_engine_address),
        ):
            socket.set_hwm(0)  # admission bounds what can be under way: nothing needs to be dropped or to block
            socket.linger = 0
            socket.bind(address)
        yield sockets
    finally:
        sockets.to_engine.close()
        sockets.from_engine.close()
        context.term()


def _socket_directory() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="wenxin-")
    except OSError as error:
        raise ConfigError(
            f"no writable temporary directory (mount an emptyDir at /tmp, or set TMPDIR): {error}"
        ) from error
