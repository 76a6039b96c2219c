"""One model on several ranks: how decoding scales, what ranks send each other, what one schedule and loading cost.

    python -m bench.parallel                  # a dense and a mixed shape on this CPU's cores, about four minutes
    python -m bench.parallel --device cuda    # the 21B shape on the GPUs of this machine
    python -m bench.parallel --quick          # tiny shapes in seconds; writes nothing

The engine runs in this process as the leading rank, the others as its followers. On a CPU all layouts get the same
cores: two ranks of one thread stand against one rank of two, and a perfect layout has 100 % of its speed. What the
leading rank puts into collectives is counted where it is sent, over the tokens of the step, and stands beside what the
layout needs (`needed_bytes`). The control path is the time that orders and the step's tensors take, and their bytes.
"""

import argparse
import dataclasses
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench import fixtures, loading
from bench.environment import Recording, Row, write_result
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.startup import start
from wenxin_runtime.ipc import SamplingParams, Submit
from wenxin_runtime.parallel.leader import Followers
from wenxin_runtime.parallel.orders import Order
from wenxin_runtime.parallel.ranks import Mesh, Ranks
from wenxin_runtime.parallel.team import assembled
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config

_ELEMENT = 4  # bytes of an activation on a CPU


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model is spread; one rank is what the others are compared with."""

    tensor: int = 1
    data: int = 1
    expert: bool = False

    @property
    def ranks(self) -> int:
        """Processes, one for each device."""
        return self.tensor * self.data

    @property
    def name(self) -> str:
        """As in the tables."""
        parts = [f"TP {self.tensor}"] * (self.tensor > 1) + [f"DP {self.data}"] * (self.data > 1)
        return ", ".join(parts + [f"EP {self.ranks}"] * self.expert) or "one rank"


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches of prompts of `context` tokens, `answer` tokens each, in every layout of every shape."""

    layouts: Mapping[tuple[str, str], "_Layouts"]
    batches: tuple[int, ...]
    context: int
    answer: int
    threads: int
    device: str = "cpu"
    quick: bool = False


_Layouts = tuple[Layout, ...]
_DENSE: _Layouts = (Layout(), Layout(2))
_MIXED: _Layouts = (Layout(), Layout(2), Layout(2, expert=True), Layout(1, 2, expert=True))


class Tally:
    """What the leading rank has sent, in bytes, and the seconds that the control path took."""

    def __init__(self) -> None:
        self.collective = self.step_tensors = 0
        self.control_seconds = 0.0


class CountingRanks:
    """Some ranks, with what goes to them."""

    def __init__(self, ranks: Ranks, tally: Tally) -> None:
        self._ranks = ranks
        self._tally = tally
        self.rank, self.size = ranks.rank, ranks.size

    def sum_(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_`."""
        self._tally.collective += x.nbytes * (self.size > 1)
        return self._ranks.sum_(x)

    def join(self, x: Tensor) -> Tensor:
        """See `Ranks.join`."""
        self._tally.collective += x.nbytes * (self.size > 1)
        return self._ranks.join(x)

    def spread_(self, x: Tensor) -> Tensor:
        """See `Ranks.spread_`; hidden states are a collective's, numbers are control."""
        if x.is_floating_point():
            self._tally.collective += x.nbytes
            return self._ranks.spread_(x)
        self._tally.step_tensors += x.nbytes
        began = time.perf_counter()
        x = self._ranks.spread_(x)
        self._tally.control_seconds += time.perf_counter() - began
        return x

    def least(self, number: int) -> int:
        """See `Ranks.least`."""
        return self._ranks.least(number)

    def exchange(self, x: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        """See `Ranks.exchange`; what a rank sends to itself does not count."""
        to_others = sum(sends) - sends[self.rank]
        self._tally.collective += to_others * math.prod(x.shape[1:]) * x.element_size()
        return self._ranks.exchange(x, sends, receives)


class TimedFollowers(Followers):
    """The way to the followers, with the time that orders take."""

    def __init__(self, followers: Followers, tally: Tally) -> None:
        self._followers = followers
        self._tally = tally

    @property
    def bytes_sent(self) -> int:  # type: ignore[override]
        """See `Followers.bytes_sent`."""
        return self._followers.bytes_sent

    def tell(self, order: Order) -> None:
        """See `Followers.tell`."""
        began = time.perf_counter()
        self._followers.tell(order)
        self._tally.control_seconds += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Sent:
    """What the leading rank has sent so far, or within a step."""

    orders: int
    step_tensors: int
    collective: int
    control_seconds: float

    def since(self, before: "Sent") -> "Sent":
        """The difference."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(before)
        return Sent(*(new - old for new, old in zip(mine, theirs, strict=True)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes; writes nothing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    plan = _plan(options.device, quick=options.quick)
    recording = Recording(options.device, rates=False)
    results = _measured(plan)
    for rows in results.values():
        for row in rows:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        shown = {"threads": plan.threads, "context": plan.context, "answer": plan.answer}
        name = f"parallel_{options.device}"
        print("written to", write_result(name, recording.facts(), results, plan=shown, benchmark="parallel"))


def _plan(device: str, *, quick: bool) -> Plan:
    threads = len(os.sched_getaffinity(0))
    if quick:
        shapes = {("ernie4_5", "tiny"): _DENSE, ("ernie4_5_moe", "tiny"): (Layout(), _MIXED[-1])}
        return Plan(shapes, (1, 4), context=16, answer=12, threads=threads, quick=True)
    if device == "cpu":
        shapes = {("ernie4_5", "0.3b"): _DENSE, ("ernie4_5_moe", "0.7b-a0.2b"): _MIXED}
        return Plan(shapes, (1, 16), context=128, answer=32, threads=threads)
    found = torch.cuda.device_count()
    several = (each for each in (Layout(2), Layout(4), Layout(2, expert=True), Layout(4, expert=True)))
    fitting = tuple(each for each in (Layout(), *several, _MIXED[-1]) if each.ranks <= found)
    return Plan({("ernie4_5_moe", "21b-a3b"): fitting}, (1, 32), context=1024, answer=128, threads=1, device=device)


def _measured(plan: Plan) -> dict[str, list[Row]]:
    decoding: list[Row] = []
    loaded: list[Row] = []
    for (arch, size), layouts in plan.layouts.items():
        with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
            model_dir = fixtures.write_model(Path(scratch) / "model", size, arch=arch)
            alone: dict[int, float] = {}
            for layout in layouts:
                shown = {"model": f"{arch} {size}", "layout": layout.name}
                print(f"{arch} {size}: {layout.name}", flush=True)
                config = _config(plan, model_dir, layout)
                for row in _decoding(plan, config, layout):
                    rate = alone.setdefault(row["batch"], row["tokens_per_second"])
                    share = {"share_of_one_rank": round(row["tokens_per_second"] / rate, 3)}
                    decoding.append(shown | row | share)
                if not plan.quick or layout == layouts[-1]:
                    loaded += [shown | row for row in loading.measure(config)]
    return {"decoding": decoding, "loading": loaded}


def _config(plan: Plan, model_dir: Path, layout: Layout) -> RuntimeConfig:
    return RuntimeConfig(
        model_dir=str(model_dir),
        device=plan.device,
        tensor_parallel_size=layout.tensor,
        data_parallel_size=layout.data,
        enable_expert_parallel=layout.expert,
        cpu_threads=max(1, plan.threads // layout.ranks),
        max_model_len=plan.context + plan.answer,
        max_num_seqs=max(plan.batches),
        enable_prefix_caching=False,
    )


def _decoding(plan: Plan, config: RuntimeConfig, layout: Layout) -> Iterator[Row]:
    with assembled(config, _lost) as team:
        tally = Tally()
        world = CountingRanks(team.mesh.world, tally)
        tensor = world if team.mesh.groups == 1 else CountingRanks(team.mesh.tensor, tally)
        followers = TimedFollowers(team.followers, tally) if team.followers else None
        mesh = Mesh(world, tensor, team.mesh.group, team.mesh.groups)
        engine = start(config, team=dataclasses.replace(team, mesh=mesh, followers=followers)).engine
        model = read_model_config(Path(config.model_dir))
        for batch in plan.batches:
            seconds, sent = _decode(plan, engine, model.vocab_size, tally, followers, batch)
            row: Row = {"batch": batch, "tokens_per_second": round(batch / seconds, 1), "step_ms": _ms(seconds)}
            # What graphs replay passes nobody who counts.
            yield row | (_figures(model, layout, batch, sent) if followers and plan.device == "cpu" else {})


def _decode(
    plan: Plan, engine: Engine, vocabulary: int, tally: Tally, followers: Followers | None, batch: int
) -> tuple[float, Sent]:
    """Measure the median step that decodes the whole batch, and what it sends."""
    dice = random.Random(45)
    sampling = SamplingParams(max_tokens=plan.answer, temperature=0.0, ignore_eos=True)
    for number in range(batch):
        engine.submit(Submit(f"{batch}-{number}", fixtures.prompt(dice, vocabulary, plan.context), sampling))
    steps: list[tuple[float, Sent]] = []
    while engine.busy:
        before = _sent(tally, followers)
        began = time.perf_counter()
        stats = engine.step().stats
        if stats.batch_tokens == stats.batch_sequences == batch:
            steps.append((time.perf_counter() - began, _sent(tally, followers).since(before)))
    sent = [dataclasses.astuple(each) for _, each in steps]
    return statistics.median(seconds for seconds, _ in steps), Sent(*map(statistics.median, zip(*sent, strict=True)))


def _sent(tally: Tally, followers: Followers | None) -> Sent:
    orders = followers.bytes_sent if followers else 0
    return Sent(orders, tally.step_tensors, tally.collective, tally.control_seconds)


def _figures(model: ModelConfig, layout: Layout, batch: int, sent: Sent) -> Row:
    return {
        "collective_bytes_per_token": round(sent.collective / batch),
        "needed_bytes_per_token": round(needed_bytes(model, layout, batch) / batch),
        "order_bytes_per_step": round(sent.orders),
        "step_tensor_bytes": round(sent.step_tensors),
        "control_ms_per_step": round(sent.control_seconds * 1000, 3),
    }


def needed_bytes(model: ModelConfig, layout: Layout, batch: int) -> float:
    """Count what the leading rank has to send to decode one token of each sequence.

    Within a group: two sums of its rows' hidden states a layer and one for the embedding. Between groups that share
    experts, for each layer of them: a row goes once to every other rank that has some of the experts that it was given
    (with their numbers and weights), as many answers go back, and the ranks tell each other how many rows will come.
    Where the choice of experts is even, another rank has none of them with probability C(E - E/W, k) / C(E, k).
    Then all rows to all ranks, and this rank's part of their logits.
    """
    row, mine = model.hidden_size * _ELEMENT, -(-batch // layout.data)
    total: float = batch * (row + model.vocab_size // layout.ranks * _ELEMENT)
    if layout.tensor > 1:
        total += mine * (2 * model.num_layers + 1) * row
    if model.moe and layout.expert and layout.data > 1:
        experts, top_k, others = model.moe.num_experts, model.moe.top_k, layout.ranks - 1
        none = math.comb(experts - experts // layout.ranks, top_k) / math.comb(experts, top_k)
        asked, answered = mine / layout.tensor, batch / layout.ranks
        rows = others * (1 - none) * (asked * (row + 8 * top_k) + answered * row)
        total += len(model.moe.layers) * (rows + others * 8)
    return total


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _lost(reason: Exception) -> None:
    raise SystemExit(str(reason))


if __name__ == "__main__":
    main()
