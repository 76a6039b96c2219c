"""One contestant's process, and the line of JSON per job that goes there and back. Needs the standard library alone.

The process loads its model once and answers jobs in turn, so contestants that take turns meet the same noise. The one
whose turn it is not sleeps on its standard input.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from bench.streams import Stream

REPOSITORY = Path(__file__).parent.parent.parent
_END_SECONDS = 20
_LOG_TAIL = 2000


class ContestantFailed(Exception):
    """It could not start, gave an error, or was too slow; the message says which."""


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts that are all there at once, each to be continued greedily by exactly `output_tokens`."""

    prompts: tuple[tuple[int, ...], ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of our engine: seconds of the wall and by phase, tokens computed, sequences in the batch."""

    seconds: float
    schedule: float
    forward: float
    sample: float
    tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A stream per prompt, in their order; steps only where the contestant tells them."""

    streams: tuple[Stream, ...]
    steps: tuple[Step, ...] = ()


class Contestant(Protocol):
    """What a contestant's process makes of its options."""

    facts: dict[str, Any]

    def run(self, job: Job) -> Answer:
        """Answer one job."""


class Remote:
    """A contestant's process, as its referee sees it."""

    def __init__(self, module: str, options: dict[str, Any], log: Path, *, python: str = sys.executable) -> None:
        """Start it; `module` is the one below `bench.contestants`."""
        self._log = log
        # OMP_WAIT_POLICY as our engine sets it for itself: a contestant that spins would slow all the others.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(REPOSITORY)}
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [python, "-m", f"bench.contestants.{module}", json.dumps(options)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, env=environment, cwd=REPOSITORY,
            )  # fmt: skip

    def facts(self, seconds: float) -> dict[str, Any]:
        """Wait until it has loaded, and give what it says about itself.

        Raises:
            ContestantFailed: it has not.
        """
        ready: dict[str, Any] = self._receive(seconds)["ready"]
        return ready

    def ask(self, job: Job, seconds: float) -> Answer:
        """Let it answer a job within `seconds`.

        Raises:
            ContestantFailed: it has not.
        """
        line = json.dumps({"prompts": job.prompts, "output_tokens": job.output_tokens}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # what it died of is told by _receive
            _pipe(self._process.stdin).write(line.encode())
            _pipe(self._process.stdin).flush()
        answer = self._receive(seconds)
        streams = (Stream(s["started"], tuple(s["arrivals"]), tuple(s["token_ids"])) for s in answer["streams"])
        return Answer(tuple(streams), tuple(Step(*step) for step in answer["steps"]))

    def close(self) -> None:
        """End it at once, for it keeps nothing, and reap it, so that its work counts as ours."""
        self._process.terminate()
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    def _receive(self, seconds: float) -> dict[str, Any]:
        line, deadline = b"", time.monotonic() + seconds
        pipe = _pipe(self._process.stdout).fileno()
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self._process.kill()
                raise ContestantFailed(f"no answer within {seconds:.0f} s")
            if not (part := os.read(pipe, 1 << 20)):
                raise ContestantFailed(f"its process ended; its log ends: {self._log_tail()}")
            line += part
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContestantFailed(answer["error"])
        return answer

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace")[-_LOG_TAIL:].strip().splitlines()
        return lines[-1] if lines else "empty"


def answer_jobs(load: Callable[[dict[str, Any]], Contestant], arguments: Sequence[str]) -> None:
    """Be a contestant's process: load by the options in `arguments`, answer jobs until standard input ends."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # whatever else writes to standard output goes to the log

        def say(message: dict[str, Any]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        try:
            contestant = load(json.loads(arguments[0]))
            say({"ready": contestant.facts})
            for line in sys.stdin:
                job = json.loads(line)
                say(_spell(contestant.run(Job(tuple(map(tuple, job["prompts"])), job["output_tokens"]))))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
            raise


def _spell(answer: Answer) -> dict[str, Any]:
    streams = [{"started": s.started, "arrivals": s.arrivals, "token_ids": s.token_ids} for s in answer.streams]
    steps = [(s.seconds, s.schedule, s.forward, s.sample, s.tokens, s.sequences) for s in answer.steps]
    return {"streams": streams, "steps": steps}


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("the process was started with both pipes")
    return pipe
