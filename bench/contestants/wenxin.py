"""Our engine, without the server around it: one loop of steps in this process."""

import dataclasses
import itertools
import sys
import time
from typing import Any

import msgspec

from bench.contestants.protocol import Answer, Job, Step, answer_jobs
from bench.streams import Stream
from wenxin_runtime.config import RuntimeConfig, flag_of
from wenxin_runtime.engine.startup import start
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.ipc import EngineStats, SamplingParams, Submit


class Wenxin:
    """Options are the fields of RuntimeConfig."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Load the checkpoint.

        Raises:
            ConfigError: no such field, or a value out of range.
        """
        if unknown := options.keys() - {spec.name for spec in dataclasses.fields(RuntimeConfig)}:
            raise ConfigError(f"this release has no {', '.join(map(flag_of, sorted(unknown)))}")
        started = start(msgspec.convert(options, RuntimeConfig, strict=False))
        self._engine = started.engine
        self._numbers = itertools.count()
        ready = started.ready
        self.facts = {"device": ready.device, "dtype": ready.dtype, "load_seconds": round(ready.load_seconds, 1)}

    def run(self, job: Job) -> Answer:
        """Submit everything at once and step until all have ended.

        Raises:
            RuntimeError: the engine ended a request with an error.
        """
        sampling = SamplingParams(max_tokens=job.output_tokens, temperature=0.0, ignore_eos=True)
        names = [f"{next(self._numbers)}" for _ in job.prompts]
        arrivals: dict[str, list[float]] = {name: [] for name in names}
        token_ids: dict[str, list[int]] = {name: [] for name in names}
        steps: list[Step] = []
        last = started = time.perf_counter()
        for name, prompt in zip(names, job.prompts, strict=True):
            self._engine.submit(Submit(name, prompt, sampling))
        while self._engine.busy:
            outputs = self._engine.step()
            now = time.perf_counter()
            steps.append(_step(now - last, outputs.stats))
            last = now
            for delta in outputs.deltas:
                if delta.error:
                    raise RuntimeError(delta.error)
                token_ids[delta.request_id] += delta.token_ids
                arrivals[delta.request_id] += [now] * len(delta.token_ids)
        return Answer(
            tuple(Stream(started, tuple(arrivals[name]), tuple(token_ids[name])) for name in names), tuple(steps)
        )


def _step(seconds: float, stats: EngineStats) -> Step:
    return Step(
        seconds, stats.schedule_seconds, stats.forward_seconds, stats.sample_seconds, stats.batch_tokens,
        stats.batch_sequences,
    )  # fmt: skip


if __name__ == "__main__":
    answer_jobs(Wenxin, sys.argv[1:])
