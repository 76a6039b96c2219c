"""One model on several ranks: how decoding scales, what the ranks send each other, what following one schedule costs.

    python -m bench.parallel             # the 0.3B shape on this CPU's cores, about three minutes
    python -m bench.parallel --quick     # a tiny shape in seconds; writes nothing

The engine runs in this process as the leading rank, the others as its followers over gloo. All sizes get the same
cores: two ranks of one thread stand against one rank of two. What a rank puts into collectives for a token is counted
where it is sent, and stands beside what the layout needs: two sums of the hidden state a layer, one for the embedding,
and its part of the logits. The control path is the time that orders and the step's tensors take.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bench import fixtures
from bench.environment import Recording, Row, write_result
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.startup import start
from wenxin_runtime.ipc import SamplingParams, Submit
from wenxin_runtime.parallel.ranks import Mesh, Ranks
from wenxin_runtime.parallel.team import Team, assembled
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches of prompts of `context` tokens, `answer` tokens each, on every number of ranks."""

    sizes: tuple[str, ...]
    ranks: tuple[int, ...]
    batches: tuple[int, ...]
    context: int
    answer: int
    threads: int


class CountingRanks:
    """The leader's group, with what it sends and how long the step's own tensors take."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.rank, self.size = ranks.rank, ranks.size
        self.summed = self.joined = self.spread = 0
        self.spread_seconds = 0.0

    def sum_(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_`."""
        self.summed += x.nbytes
        return self._ranks.sum_(x)

    def join(self, x: Tensor) -> Tensor:
        """See `Ranks.join`."""
        self.joined += x.nbytes
        return self._ranks.join(x)

    def spread_(self, x: Tensor) -> Tensor:
        """See `Ranks.spread_`."""
        self.spread += x.nbytes
        began = time.perf_counter()
        x = self._ranks.spread_(x)
        self.spread_seconds += time.perf_counter() - began
        return x

    def least(self, number: int) -> int:
        """See `Ranks.least`."""
        return self._ranks.least(number)

    def exchange(self, x: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        """See `Ranks.exchange`."""
        return self._ranks.exchange(x, sends, receives)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny shape; writes nothing")
    options = parser.parse_args(arguments)
    threads = len(os.sched_getaffinity(0))
    plan = (
        Plan(("tiny",), (1, 2), (1, 4), context=16, answer=12, threads=threads)
        if options.quick
        else Plan(("0.3b",), (1, 2), (1, 16), context=128, answer=32, threads=threads)
    )
    recording = Recording(rates=False)
    rows = list(_rows(plan))
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        shown = {"threads": plan.threads, "context": plan.context, "answer": plan.answer}
        print("written to", write_result("parallel_cpu", recording.facts(), rows, plan=shown, benchmark="parallel"))


def _rows(plan: Plan) -> Iterator[Row]:
    for size in plan.sizes:
        with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
            model_dir = fixtures.write_model(Path(scratch) / "model", size)
            alone: dict[int, float] = {}
            for ranks in plan.ranks:
                print(f"{size}: {ranks} ranks", flush=True)
                for row in _measure(plan, model_dir, ranks):
                    rate = alone.setdefault(row["batch"], row["tokens_per_second"])
                    yield {"size": size, **row, "of_one_rank": round(row["tokens_per_second"] / rate, 2)}


def _measure(plan: Plan, model_dir: Path, ranks: int) -> Iterator[Row]:
    config = RuntimeConfig(
        model_dir=str(model_dir),
        device="cpu",
        tensor_parallel_size=ranks,
        cpu_threads=max(1, plan.threads // ranks),
        max_model_len=plan.context + plan.answer,
        max_num_seqs=max(plan.batches),
        enable_prefix_caching=False,
    )
    with assembled(config, _lost) as team:
        counting = CountingRanks(team.mesh.world)
        engine = start(config, team=Team(Mesh(counting, counting), team.followers)).engine
        for batch in plan.batches:
            seconds, moved = _decode(plan, engine, read_model_config(model_dir), counting, team, batch)
            yield {
                "ranks": ranks,
                "batch": batch,
                "tokens_per_second": round(batch / seconds, 1),
                "step_ms": round(seconds * 1000, 2),
                **(moved if ranks > 1 else {}),
            }


def _decode(
    plan: Plan, engine: Engine, config: ModelConfig, counting: CountingRanks, team: Team, batch: int
) -> tuple[float, Row]:
    """Measure the median step that decodes the whole batch, and what such steps send."""
    dice = random.Random(45)
    sampling = SamplingParams(max_tokens=plan.answer, temperature=0.0, ignore_eos=True)
    for number in range(batch):
        prompt = fixtures.prompt(dice, config.vocab_size, plan.context)
        engine.submit(Submit(f"{batch}-{number}", prompt, sampling))
    seconds: list[float] = []
    moved = (0, 0, 0.0)
    while engine.busy:
        orders, sent, spread = (team.followers.bytes_sent if team.followers else 0), _sent(counting), counting.spread
        spread_seconds = counting.spread_seconds
        began = time.perf_counter()
        stats = engine.step().stats
        if stats.batch_tokens == stats.batch_sequences == batch:
            seconds.append(time.perf_counter() - began)
            control = (team.followers.bytes_sent if team.followers else 0) - orders + counting.spread - spread
            moved = (_sent(counting) - sent, control, counting.spread_seconds - spread_seconds)
    needed = (2 * config.num_layers + 1) * config.hidden_size * 4 + config.vocab_size // counting.size * 4
    return statistics.median(seconds), {
        "collective_bytes_per_token": moved[0] // batch,
        "needed_bytes_per_token": needed,
        "control_bytes_per_step": moved[1],
        "control_ms_per_step": round(moved[2] * 1000, 3),
    }


def _sent(counting: CountingRanks) -> int:
    return counting.summed + counting.joined


def _lost(reason: Exception) -> None:
    raise SystemExit(str(reason))


if __name__ == "__main__":
    main()
