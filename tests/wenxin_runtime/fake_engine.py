"""An engine without a model, speaking the real protocol: scripted by a test, or writing tokens by itself.

    python fake_engine.py --control ipc://...    every message is passed on to the test, and the test's to the server
    python fake_engine.py --tokens 5,6,7         ready at once; every request gets these tokens again and again

It starts in a tenth of the time of the real engine, and stalls, fails or dies exactly when a test wants it to.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from wenxin_runtime import config as runtime_config
from wenxin_runtime import ipc
from wenxin_runtime.ipc import (
    Abort,
    Delta,
    EngineStats,
    Outputs,
    Ping,
    Pong,
    Ready,
    Shutdown,
    Submit,
    TokenLogprobs,
)

POLL_MS = 500
TIMEOUT_SECONDS = 60.0
EXIT = b"exit:"
READY = Ready(
    max_model_len=256, kv_blocks=64, block_size=16, device="fake", dtype="float32", parameters=1, load_seconds=0.5
)


def self_writing_command(tokens: str) -> tuple[str, ...]:
    """Return the command of an engine that writes `tokens` (comma-separated ids) by itself."""
    return (sys.executable, __file__, "--tokens", tokens, "--steps-per-second", "500")


class FakeEngine:
    """The test's end of a relaying engine process."""

    def __init__(self, directory: Path) -> None:
        self.address = f"ipc://{directory}/control"
        self.command = (sys.executable, __file__, "--control", self.address)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.linger = 0
        self._socket.bind(self.address)
        self.pid = 0

    async def started(self) -> None:
        """Wait until the process runs; afterwards `pid` is known."""
        self.pid = int(await self._receive())

    async def next(self) -> ipc.ToEngine:
        """Wait for the server's next message."""
        return ipc.decode_to_engine(await self._receive())

    async def submits(self, count: int) -> list[Submit]:
        """Wait for this many sequences, one per choice; aborts of earlier ones may come between them."""
        found: list[Submit] = []
        while len(found) < count:
            message = await self.next()
            if isinstance(message, Submit):
                found += choices_of(message)
            else:
                assert isinstance(message, Abort), message
        return found

    async def submit(self) -> Submit:
        return (await self.submits(1))[0]

    async def aborted(self) -> tuple[str, ...]:
        """Wait for the next message, an Abort, and return its ids."""
        message = await self.next()
        assert isinstance(message, Abort), message
        return message.request_ids

    async def send(self, message: ipc.FromEngine) -> None:
        await self._socket.send(ipc.encode(message))

    async def ready(self, **changes: object) -> None:
        await self.send(msgspec.structs.replace(READY, **changes))

    async def step(self, *deltas: Delta, **stats: int) -> None:
        """Report one step."""
        await self.send(Outputs(deltas, EngineStats(**{"batch_tokens": 1, **stats})))

    async def write(self, submit: Submit, *token_ids: int, **ending: object) -> None:
        """Add tokens to one request, all in one step."""
        await self.step(Delta(submit.request_id, token_ids=token_ids, **ending))

    async def say(self, submit: Submit, token_ids: Sequence[int], finish_reason: str | None = "length") -> None:
        """Add tokens one step at a time; the last one ends the request."""
        for i, token_id in enumerate(token_ids):
            last = i == len(token_ids) - 1
            await self.write(submit, token_id, finish_reason=finish_reason if last else None)

    async def exit(self, status: int) -> None:
        """End the process on its own."""
        await self._socket.send(EXIT + str(status).encode())

    async def garble(self) -> None:
        """Send what is no message."""
        await self._socket.send(b"\xc1")

    def close(self) -> None:
        self._context.destroy(linger=0)

    async def _receive(self) -> bytes:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self._socket.recv()


def main() -> int:
    parser = argparse.ArgumentParser()
    for flag in ("--to-engine", "--from-engine", "--config"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--control")
    parser.add_argument("--tokens", default="5,6,7")
    parser.add_argument("--steps-per-second", type=float, default=0)
    options = parser.parse_args()
    context = zmq.Context()
    incoming, outgoing = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket, address in ((incoming, options.to_engine), (outgoing, options.from_engine)):
        socket.set_hwm(0)
        socket.connect(address)
    try:
        if options.control:
            control = context.socket(zmq.PAIR)
            control.connect(options.control)
            return relay(incoming, outgoing, control)
        return write_by_itself(incoming, outgoing, options)
    finally:
        context.destroy(linger=1000)


def relay(incoming: zmq.Socket, outgoing: zmq.Socket, control: zmq.Socket) -> int:
    control.send(str(os.getpid()).encode())
    poller = zmq.Poller()
    for socket in (incoming, control):
        poller.register(socket, zmq.POLLIN)
    parent = os.getppid()
    while os.getppid() == parent:
        events = dict(poller.poll(POLL_MS))
        if control in events:
            message = control.recv()
            if message.startswith(EXIT):
                return int(message.removeprefix(EXIT))
            outgoing.send(message)
        if incoming in events:
            message = incoming.recv()
            control.send(message)
            if isinstance(ipc.decode_to_engine(message), Shutdown):
                return 0
    return 0


def write_by_itself(incoming: zmq.Socket, outgoing: zmq.Socket, options: argparse.Namespace) -> int:
    tokens = [int(token) for token in options.tokens.split(",")]
    slots = runtime_config.from_json(options.config).max_num_seqs
    outgoing.send(ipc.encode(READY))
    written: dict[str, int] = {}
    submits: dict[str, Submit] = {}
    parent = os.getppid()
    while os.getppid() == parent:
        if not submits:
            incoming.poll(POLL_MS)
        while incoming.poll(0):
            match ipc.decode_to_engine(incoming.recv()):
                case Submit() as submit:
                    submits |= {choice.request_id: choice for choice in choices_of(submit)}
                    written |= dict.fromkeys(submit.request_ids, 0)
                case Abort(request_ids):
                    forget(submits, request_ids)
                case Ping():
                    outgoing.send(ipc.encode(Pong(bool(submits))))
                case Shutdown():
                    return 0
        if submits:
            outgoing.send(ipc.encode(step(submits, written, tokens, slots)))
            if options.steps_per_second:
                time.sleep(1 / options.steps_per_second)
    return 0


def forget(submits: dict[str, Submit], request_ids: Sequence[str]) -> None:
    for request_id in request_ids:
        submits.pop(request_id, None)


def choices_of(submit: Submit) -> list[Submit]:
    """Split a prompt's choices, as if each had been submitted alone."""
    return [msgspec.structs.replace(submit, request_id=request_id, siblings=()) for request_id in submit.request_ids]


def step(submits: dict[str, Submit], written: dict[str, int], tokens: list[int], slots: int) -> Outputs:
    """Write one token for each running request; those beyond `slots` wait."""
    deltas = []
    for submit in list(submits.values())[:slots]:
        count = written[submit.request_id]
        token_id = tokens[count % len(tokens)]
        written[submit.request_id] += 1
        ended = count + 1 >= submit.sampling.max_tokens
        logprobs = submit.sampling.logprobs
        top = tuple((token_id + i, -0.5 - i) for i in range(logprobs or 0))
        delta = Delta(
            submit.request_id,
            token_ids=(token_id,) if submit.sampling.max_tokens else (),
            finish_reason="length" if ended else None,
            logprobs=None if logprobs is None else (TokenLogprobs(-0.5, 1, top),),
        )
        deltas.append(delta)
        if ended:
            del submits[submit.request_id]
    running = min(len(submits), slots)
    stats = EngineStats(waiting=len(submits) - running, running=running, batch_tokens=len(deltas))
    return Outputs(tuple(deltas), stats)


if __name__ == "__main__":
    sys.exit(main())
