"""The engine process: take what the server says, step while there is work, sleep while there is none.

The server binds both sockets and starts this process; when the server is gone, so is the engine, within a second.
"""

import argparse
import contextlib
import faulthandler
import functools
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import zmq

from wenxin_runtime import config as runtime_config
from wenxin_runtime import ipc
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.loaded import check
from wenxin_runtime.engine.profiling import Profiling
from wenxin_runtime.engine.startup import start
from wenxin_runtime.errors import RankLost, RuntimeFailure
from wenxin_runtime.parallel import pulse
from wenxin_runtime.parallel.team import assembled
from wenxin_runtime.parallel.wire import Pulse
from wenxin_runtime.telemetry import set_up_logging

logger = logging.getLogger(__name__)

_PARENT_CHECK_MS = 1000
_LINGER_MS = 2000
_PROGRESS_EVERY_SECONDS = 0.2


class ServerGone(Exception):
    """Nobody is left to work for."""


class Channel:
    """Our ends of the two sockets. Messages arrive whole and in order."""

    def __init__(self, incoming: zmq.Socket[bytes], outgoing: zmq.Socket[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._parent = os.getppid()
        self._next_progress = 0.0

    def send(self, message: ipc.FromEngine) -> None:
        """Hand a message to the server."""
        self._outgoing.send(ipc.encode(message))

    def progress(self, done: int, total: int) -> None:
        """Report loading, not more often than anybody looks.

        Raises:
            ServerGone: the server has ended meanwhile.
        """
        now = time.monotonic()
        if now >= self._next_progress or done == total:
            self._next_progress = now + _PROGRESS_EVERY_SECONDS
            self.check_server()
            self.send(ipc.Loading(done, total))

    def receive(self, *, wait: bool) -> Iterator[ipc.ToEngine]:
        """Give the messages that are there; with `wait`, sleep until there is one.

        Raises:
            ServerGone: the server has ended.
        """
        self.check_server()
        while wait and not self._incoming.poll(_PARENT_CHECK_MS):
            self.check_server()
        with contextlib.suppress(zmq.Again):
            while True:
                yield ipc.decode_to_engine(self._incoming.recv(zmq.NOBLOCK))

    def check_server(self) -> None:
        """Notice that the server has ended: then another process is our parent.

        Raises:
            ServerGone: it has.
        """
        if os.getppid() != self._parent:
            raise ServerGone


@contextlib.contextmanager
def heart(from_engine: str) -> Iterator[Callable[[Mapping[int, Pulse]], None]]:
    """Give what says to the server that the process lives: for the pulse's thread, over a socket of its own."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 0
        socket.connect(from_engine)

        def beat(others: Mapping[int, Pulse]) -> None:
            standing = tuple((rank, other.orders) for rank, other in others.items())
            leaving = tuple(rank for rank, other in others.items() if other.leaving)
            with contextlib.suppress(zmq.Again):
                socket.send(ipc.encode(ipc.Alive(pulse.EVERY_SECONDS, standing, leaving)), zmq.NOBLOCK)

        yield beat


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the server says Shutdown or ends. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m wenxin_runtime.engine", description=__doc__)
    parser.add_argument("--to-engine", required=True, help="ZeroMQ address that the server pushes to")
    parser.add_argument("--from-engine", required=True, help="ZeroMQ address that the server pulls from")
    parser.add_argument("--config", required=True, help="RuntimeConfig as JSON")
    options = parser.parse_args(argv)
    config = runtime_config.from_json(options.config)
    set_up_logging(config.log_level)
    faulthandler.register(ipc.STACKS_SIGNAL, all_threads=True)
    with connected(options.to_engine, options.from_engine) as channel, heart(options.from_engine) as beat:
        return run(config, channel, functools.partial(_end_without_rank, options.from_engine), beat)


@contextlib.contextmanager
def connected(to_engine: str, from_engine: str) -> Iterator[Channel]:
    """Connect both sockets; on leaving, what was sent last has a moment to go out."""
    context = zmq.Context()
    incoming, outgoing = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket, address in ((incoming, to_engine), (outgoing, from_engine)):
        socket.set_hwm(0)
        socket.linger = _LINGER_MS
        socket.connect(address)
    try:
        yield Channel(incoming, outgoing)
    finally:
        incoming.close()
        outgoing.close()
        context.term()


def run(
    config: RuntimeConfig,
    channel: Channel,
    on_loss: Callable[[RankLost], None],
    on_beat: Callable[[Mapping[int, Pulse]], None],
) -> int:
    """Start the engine and serve; tell the server why, if it cannot go on. Returns the exit code."""
    try:
        checkpoint = check(config)
        with assembled(config, on_loss, checkpoint, still_wanted=channel.check_server, on_beat=on_beat) as team:
            started = start(config, channel.progress, team, checkpoint)
            channel.send(started.ready)
            serve(started.engine, channel)
    except ServerGone:
        logger.info("the server has ended; so does the engine")
    except RuntimeFailure as failure:
        channel.send(ipc.Fatal(failure.reason, str(failure), failure.exit_code))
        return failure.exit_code
    except Exception as error:
        logger.exception("the engine cannot go on")
        channel.send(_crash(error))
        return 1
    return 0


def serve(engine: Engine, channel: Channel) -> None:
    """Step while there is work; return on Shutdown."""
    was_busy = False
    profiling = Profiling()
    while True:
        for message in channel.receive(wait=not (engine.busy or was_busy or profiling.active)):
            match message:
                case ipc.Submit():
                    engine.submit(message)
                case ipc.Abort():
                    engine.abort(message.request_ids)
                case ipc.Shutdown():
                    return
                case _:
                    _answer(message, engine, profiling, channel)
        if engine.busy or was_busy:
            # One step more than there is work: it computes nothing and reports an idle engine.
            was_busy = engine.busy
            channel.send(profiling.step(engine.step))
        if profiled := profiling.ended(idle=not engine.busy):
            channel.send(profiled)


def _answer(
    question: ipc.Ping | ipc.Inspect | ipc.Profile, engine: Engine, profiling: Profiling, channel: Channel
) -> None:
    match question:
        case ipc.Ping():
            channel.send(ipc.Pong(engine.busy))
        case ipc.Inspect():
            channel.send(engine.inspect())
        case ipc.Profile():
            if refused := profiling.begin(question):
                channel.send(refused)


def _end_without_rank(from_engine: str, lost: RankLost) -> None:
    """Tell the server that a rank is gone and end at once, from any thread: the engine may hang in a sum."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = _LINGER_MS
        socket.connect(from_engine)
        socket.send(ipc.encode(ipc.Fatal(lost.reason, str(lost), lost.exit_code)))
    os._exit(lost.exit_code)


def _crash(error: Exception) -> ipc.Fatal:
    where = "".join(traceback.format_exception(error)[-2:]).strip()
    if isinstance(error, torch.OutOfMemoryError):
        advice = "lower --gpu-memory-utilization or --max-num-batched-tokens"
        return ipc.Fatal("OutOfDeviceMemory", f"the device's memory is used up; {advice}. {error}")
    return ipc.Fatal("EngineCrashed", f"the engine failed, please report this: {where}")
