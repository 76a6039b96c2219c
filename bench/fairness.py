"""What running streams feel of a long prompt: the gaps between their tokens, with and without one arriving.

    python -m bench.fairness             # the 0.3B shape on this CPU, about three minutes
    python -m bench.fairness --quick     # a tiny shape in seconds; writes nothing

The engine runs in this process, without HTTP. A gap is the time between two tokens of one stream. Beside running
streams a prompt is computed in chunks of a quarter of --max-num-batched-tokens, so a gap is bounded by a step of that
size, however long the prompt; the rows show how the bound follows the flag.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import fixtures
from bench.environment import Recording, Row, write_result
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.startup import start
from wenxin_runtime.ipc import SamplingParams, Submit
from wenxin_runtime.weights.model_config import read_model_config


@dataclass(frozen=True, slots=True)
class Plan:
    """Streams of `answer` tokens behind prompts of `context`; after `warm` of them the long prompt arrives.

    `budgets` are values of --max-num-batched-tokens.
    """

    size: str
    streams: int
    context: int
    answer: int
    warm: int
    prompt: int
    budgets: tuple[int, ...]


_FULL = Plan("0.3b", streams=4, context=64, answer=96, warm=16, prompt=2000, budgets=(128, 512, 2048))
_QUICK = Plan("tiny", streams=4, context=16, answer=40, warm=8, prompt=400, budgets=(64, 512))


@dataclass(frozen=True, slots=True)
class Observed:
    """Gaps of all streams in seconds, and how long the long prompt took to its first token."""

    gaps: list[float]
    ttft: float | None
    largest_step: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny shape; writes nothing")
    options = parser.parse_args(arguments)
    plan = _QUICK if options.quick else _FULL
    recording = Recording(rates=False)
    with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
        model_dir = fixtures.write_model(Path(scratch) / "model", plan.size)
        rows = [row for budget in plan.budgets for row in _rows(plan, model_dir, budget)]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        shown = {"size": plan.size, "streams": plan.streams, "prompt_tokens": plan.prompt}
        print("written to", write_result("fairness_cpu", recording.facts(), rows, plan=shown, benchmark="fairness"))


def _rows(plan: Plan, model_dir: Path, budget: int) -> Iterator[Row]:
    config = RuntimeConfig(
        model_dir=str(model_dir),
        device="cpu",
        max_model_len=plan.prompt + plan.answer,
        max_num_seqs=plan.streams + 1,
        max_num_batched_tokens=budget,
        enable_prefix_caching=False,
    )
    engine, vocabulary = start(config).engine, read_model_config(model_dir).vocab_size
    for arrives in (False, True):
        print(f"budget {budget}, {'with' if arrives else 'without'} the prompt", flush=True)
        yield {"budget": budget, **_row(plan, _observe(plan, engine, vocabulary, arrives=arrives))}


def _row(plan: Plan, observed: Observed) -> Row:
    gaps = sorted(observed.gaps)
    return {
        "streams": plan.streams,
        "prompt_tokens": plan.prompt if observed.ttft is not None else 0,
        "largest_step_tokens": observed.largest_step,
        "gap_p50_ms": _ms(statistics.median(gaps)),
        "gap_p99_ms": _ms(gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))]),
        "gap_max_ms": _ms(gaps[-1]),
        "prompt_ttft_ms": None if observed.ttft is None else _ms(observed.ttft),
    }


def _observe(plan: Plan, engine: Engine, vocabulary: int, *, arrives: bool) -> Observed:
    """Run the streams to their end; gaps count from the moment at which the prompt arrives or would have."""
    dice = random.Random(45)
    for number in range(plan.streams):
        engine.submit(_submit(f"stream {number}", fixtures.prompt(dice, vocabulary, plan.context), plan.answer))
    long = _submit("long", fixtures.prompt(dice, vocabulary, plan.prompt), 1)
    last: dict[str, float] = {}
    gaps: list[float] = []
    arrived = ttft = None
    tokens = largest = 0
    while engine.busy:
        if arrived is None and tokens >= plan.warm * plan.streams:
            arrived = time.perf_counter()
            if arrives:
                engine.submit(long)
        outputs = engine.step()
        now = time.perf_counter()
        names = [delta.request_id for delta in outputs.deltas]
        if arrived is not None:
            largest = max(largest, outputs.stats.batch_tokens)
            gaps += [now - last[name] for name in names if name != "long"]
            ttft = now - arrived if "long" in names else ttft
        last |= dict.fromkeys(names, now)
        tokens += len(names)
    return Observed(gaps, ttft, largest)


def _submit(name: str, prompt: Sequence[int], answer: int) -> Submit:
    return Submit(name, tuple(prompt), SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True))


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)


if __name__ == "__main__":
    main()
