"""The engine as the rest of the server sees it: admission, routing, and how each sequence ended."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from wenxin_runtime import ipc
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import EngineDied, EngineUnavailable, GenerationFailed, InvalidRequest, Overloaded, RankLost
from wenxin_runtime.ipc import Delta, EngineStats, FinishReason, Loading, Ready, Submit
from wenxin_runtime.server.engine_process import ENGINE_COMMAND, EngineProcess, started
from wenxin_runtime.server.generation import Generation
from wenxin_runtime.server.questions import Questions
from wenxin_runtime.server.served_model import model_names
from wenxin_runtime.server.watchdog import Heartbeat, Watchdog
from wenxin_runtime.telemetry import Metrics
from wenxin_runtime.timeline import Timeline

_LOG_EVERY_SECONDS = 5.0
# The engine answers between two steps; a step of a large prompt on a CPU takes seconds.
_ANSWER_SECONDS = 30.0
# After its last step a profile is sorted and written.
_PROFILE_SECONDS = 120.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Open:
    """A sequence that has not ended, the `number`-th of its request."""

    generation: Generation
    number: int
    timeline: Timeline


class EngineClient:
    """Submits sequences, hands each delta to its request, and counts every ending exactly once.

    Attributes:
        state: How far the engine is. It only moves from Loading to Ready to EngineDied.
        stats: The engine's last report.
        max_model_len: Longest prompt plus answer in tokens; 0 until the engine has said it.
        ready: Set once the engine is.
        idle: Set while no sequence is open.
        heartbeat: Signs of life of an engine that shares its model.
    """

    def __init__(self, config: RuntimeConfig, metrics: Metrics) -> None:
        self.state: Loading | Ready | EngineDied = Loading(0, 0)
        self.stats = EngineStats()
        self.max_model_len = 0
        self.ready = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._config = config
        self._metrics = metrics
        self._process: EngineProcess | None = None
        self._ending: asyncio.Task[None] | None = None
        self._open: dict[str, _Open] = {}
        self._capacity = config.max_num_seqs + config.queue_size
        self._next_progress_log = 0.0
        self.heartbeat = Heartbeat()
        self._watchdog = Watchdog(config.engine_stall_timeout, lambda: self._send(ipc.Ping()))
        self._questions = Questions(self._send)
        metrics.watch(self)

    @property
    def running(self) -> int:
        """Sequences that hold a slot, by the engine's last report."""
        return min(self.stats.running, len(self._open))

    @property
    def waiting(self) -> int:
        """Sequences that are open and hold no slot."""
        return len(self._open) - self.running

    @property
    def kv_usage(self) -> float:
        """Used share of the KV cache, 0 to 1."""
        return self.stats.kv_blocks_used / self.stats.kv_blocks_total if self.stats.kv_blocks_total else 0.0

    async def run(self, command: Sequence[str] = ENGINE_COMMAND) -> EngineDied:
        """Start the engine and route what it says until it ends; ends it when cancelled.

        Returns:
            Why it ended.
        """
        try:
            async with started(self._config, command) as self._process, self._watched(self._process):
                status = await self._process.receive(self._handle)
        except Exception as error:
            self._on_death(EngineDied(f"the server cannot go on with its engine: {error}"))
            raise
        finally:
            self._process = None
        died = self.state if isinstance(self.state, EngineDied) else EngineDied(_describe(status))
        self._on_death(died)
        return died

    def open(self, submits: Sequence[Submit]) -> Generation:
        """Accept the sequences of one request, all or none.

        Raises:
            InvalidRequest: they could never be accepted together.
            Overloaded: not enough slots and queue places are free now.
            EngineUnavailable: the engine is not ready.
        """
        request_ids = [request_id for submit in submits for request_id in submit.request_ids]
        self.check_capacity(len(request_ids))
        process = self._check_ready()
        now = time.monotonic()
        timelines = [Timeline(len(submit.prompt_ids), now) for submit in submits for _ in submit.request_ids]
        generation = Generation(self, request_ids, timelines)
        for number, (request_id, timeline) in enumerate(zip(request_ids, timelines, strict=True)):
            self._open[request_id] = _Open(generation, number, timeline)
        for submit in submits:
            process.send(submit)
        self.idle.clear()
        return generation

    def check_capacity(self, sequences: int = 1) -> None:
        """Refuse what cannot be queued.

        Raises:
            InvalidRequest: more sequences than there will ever be places.
            Overloaded: more than there are places now.
        """
        if sequences > self._capacity:
            raise InvalidRequest(
                f"prompts times n is {sequences} sequences; this server takes at most {self._capacity} in one request",
                param="n",
            )
        if len(self._open) + sequences > self._capacity:
            raise Overloaded("all slots and queue places are taken, try again", code="overloaded", retry_after=1)

    def end(self, request_id: str, reason: FinishReason) -> None:
        """Count the ending of a sequence that the server ended; the engine forgets it."""
        if self._close(request_id, reason):
            self._send_abort([request_id])

    def abort(self, request_ids: Sequence[str]) -> None:
        """Forget those of `request_ids` that have not ended; the engine frees their blocks."""
        self._send_abort([request_id for request_id in request_ids if self._close(request_id, "abort")])

    async def inspect(self) -> ipc.Inspected:
        """Ask where every sequence stands.

        Raises:
            EngineUnavailable: the engine is not ready, dies, or does not answer.
            Conflict: somebody else is asking.
        """
        self._check_ready()
        return await self._questions.ask(ipc.Inspect(), ipc.Inspected, _ANSWER_SECONDS)

    async def profile(self, wanted: ipc.Profile) -> ipc.Profiled:
        """Let the engine profile its next steps.

        Raises:
            EngineUnavailable: the engine is not ready, dies, or does not answer.
            Conflict: somebody else is profiling.
        """
        self._check_ready()
        return await self._questions.ask(wanted, ipc.Profiled, wanted.seconds + _PROFILE_SECONDS)

    def fail_all(self, error: EngineUnavailable) -> None:
        """End every open request with `error`."""
        request_ids = list(self._open)
        for request_id in request_ids:
            self._open[request_id].generation.fail(error)
            self._close(request_id, "error")
        self._send_abort(request_ids)

    def _check_ready(self) -> EngineProcess:
        if not isinstance(self.state, Ready) or self._process is None:
            raise EngineUnavailable("the engine is not ready", code="loading", retry_after=1)
        return self._process

    def _send_abort(self, request_ids: Sequence[str]) -> None:
        if request_ids:
            self._send(ipc.Abort(tuple(request_ids)))

    def _send(self, message: ipc.ToEngine) -> None:
        if self._process is not None:
            self._process.send(message)

    @contextlib.asynccontextmanager
    async def _watched(self, process: EngineProcess) -> AsyncIterator[None]:
        watching = [
            asyncio.create_task(self._give_up_when_stalled(process)),
            asyncio.create_task(self._give_up_when_frozen(process)),
        ]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _give_up_when_stalled(self, process: EngineProcess) -> None:
        await self.ready.wait()
        await self._watchdog.stalled()
        stats = self.stats
        died = EngineDied(
            f"the engine made no progress for {self._config.engine_stall_timeout:g} s (--engine-stall-timeout) with "
            f"{stats.running} sequences running and {stats.waiting} waiting by its last report, after a step of "
            f"{stats.batch_tokens} tokens; {_describe_ranks(self.heartbeat)}where it stood is in the log, please "
            "report it",
            reason="EngineStalled",
        )
        self._on_death(died)
        await process.kill()

    async def _give_up_when_frozen(self, process: EngineProcess) -> None:
        """End an engine that shares its model and is silent: the other ranks have left it, or will."""
        seconds = await self.heartbeat.stopped()
        message = f"rank 0, the engine process, has given no sign of life for {seconds:g} s: it hangs or was frozen"
        self._on_death(EngineDied(message, reason=RankLost.reason))
        await process.kill()

    def _handle(self, message: ipc.FromEngine) -> None:
        self._watchdog.heard(message)
        match message:
            case ipc.Pong():
                pass
            case ipc.Alive():
                self.heartbeat.heard(message)
            case ipc.Inspected() | ipc.Profiled():
                self._questions.answered(message)
            case ipc.Outputs():
                self._on_outputs(message)
            case Loading():
                self.state = message
                self._log_progress(message)
            case Ready():
                self.state = message
                self.max_model_len = message.max_model_len
                self.ready.set()
                self._metrics.engine_ready(message, model_names(self._config)[0])
                logger.info("engine ready in %.1f s on %s, %s", message.load_seconds, message.device, message.dtype)
            case ipc.Fatal():
                self._on_death(EngineDied(message.message, reason=message.reason, exit_code=message.exit_code))
                self._end_process()
            case _:
                assert_never(message)

    def _on_outputs(self, outputs: ipc.Outputs) -> None:
        now = time.monotonic()
        self.stats = outputs.stats
        self._metrics.step(outputs.stats)
        gaps: dict[float, int] = {}
        for delta in outputs.deltas:
            open_ = self._open.get(delta.request_id)
            if open_ is None:
                continue  # aborted while this step ran
            self._take_note(open_.timeline, delta, now, gaps)
            if delta.finish_reason == "error":
                message = delta.error or "the engine gave this request up"
                open_.generation.fail(GenerationFailed(message, code="generation_failed"))
                self._close(delta.request_id, "error")
            else:
                open_.generation.put(open_.number, delta)
                if delta.finish_reason is not None:
                    self._close(delta.request_id, delta.finish_reason)
        self._metrics.gaps(gaps.items())

    def _take_note(self, timeline: Timeline, delta: Delta, now: float, gaps: dict[float, int]) -> None:
        """Add to `gaps` the tokens that waited equally long: mostly all of a step, whose last ones came together."""
        gap = timeline.add(delta, now)
        if gap is not None:
            tokens = len(delta.token_ids)
            gap /= tokens  # tokens that come together (speculation) share the wait between them
            gaps[gap] = gaps.get(gap, 0) + tokens
        elif timeline.first_token == now:
            self._metrics.first_token(timeline)

    def _close(self, request_id: str, ending: str) -> bool:
        open_ = self._open.pop(request_id, None)
        if open_ is None:
            return False
        open_.timeline.end(ending, time.monotonic())
        self._metrics.ended(open_.timeline)
        if not self._open:
            self.idle.set()
        return True

    def _on_death(self, died: EngineDied) -> None:
        if not isinstance(self.state, EngineDied):
            logger.error("the engine is dead: %s: %s", died.reason, died)
        self.state = died
        error = EngineUnavailable(f"the engine died: {died}", code="engine_died", retry_after=1)
        self.fail_all(error)
        self._questions.fail(error)

    def _end_process(self) -> None:
        """See to it that an engine that has given up does not linger."""
        if self._process is not None:
            self._ending = asyncio.create_task(self._process.stop())

    def _log_progress(self, loading: Loading) -> None:
        if time.monotonic() < self._next_progress_log or not loading.total:
            return
        self._next_progress_log = time.monotonic() + _LOG_EVERY_SECONDS
        share = 100 * loading.done / loading.total
        logger.info("loading weights: %.0f %% (%d of %d bytes)", share, loading.done, loading.total)


def _describe_ranks(heartbeat: Heartbeat) -> str:
    """Say how far the other ranks are, where there are some."""
    standing = ", ".join(f"rank {rank}: {orders}" for rank, orders in heartbeat.last.standing)
    return f"orders carried out by the other ranks: {standing}; " if standing else ""


def _describe(status: int) -> str:
    if status >= 0:
        return f"the engine process ended with exit status {status}; its last lines are in the log"
    name = signal.Signals(-status).name
    hint = "; SIGKILL mostly means out of memory" if name == "SIGKILL" else ""
    return f"the engine process was ended by {name}{hint}"
