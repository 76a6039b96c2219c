"""Us beside transformers and llama.cpp: same weights, same prompts, same threads, one run, taking turns.

    python -m bench.peers                  # the 0.3B shape on this CPU, under ten minutes, 10 GB of memory
    python -m bench.peers --device cuda    # beside transformers alone
    python -m bench.peers --quick          # a tiny shape in seconds; writes nothing

Contestants answer in their own processes, one at a time; every round begins with another one, so that a noisy minute
hits all. That they compute the same model is checked first: in fp32 their greedy tokens must agree. llama.cpp is built
on demand, outside the clone (bench/peers.txt); a peer that cannot run is named in the result with the reason.
"""

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import fixtures, llama_environment, roofline
from bench.contestants.protocol import REPOSITORY, Answer, ContestantFailed, Job, Remote
from bench.environment import Recording, Row, write_result
from bench.streams import Figures, figures
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config

_LOAD_SECONDS = 600
_PREFILL, _SINGLE = "prefill", "1 sequence"
# How many of the first tokens must be the same in fp32, and which share of all: among 103,424 random logits two soon
# are as good as equal, and behind a token that differs nothing is compared. Another model agrees in next to none.
_SAME_FIRST_TOKENS = 1
_SAME_SHARE = 0.5
_TOKENS_OF_A_PASS = {"cpu": 512, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. The prompts of the mixed workload have half to one and a half of `prompt_tokens`."""

    device: str
    size: str
    precisions: tuple[str, ...]
    sequences: int
    prompt_tokens: int
    output_tokens: int
    rounds: int
    threads: int
    minutes: float
    limit_seconds: float

    @property
    def most_tokens(self) -> int:
        """Of one sequence."""
        return self.prompt_tokens * 3 // 2 + self.output_tokens

    def jobs(self, vocabulary: int) -> dict[str, Job]:
        """The workloads by name, the same in every run."""
        dice = random.Random(45)
        spread = range(self.prompt_tokens // 2, self.prompt_tokens * 3 // 2 + 1)
        single = (fixtures.prompt(dice, vocabulary, self.prompt_tokens),)
        mixed = tuple(fixtures.prompt(dice, vocabulary, dice.choice(spread)) for _ in range(self.sequences))
        return {
            _PREFILL: Job(single, 1),
            _SINGLE: Job(single, self.output_tokens),
            f"{self.sequences} sequences": Job(mixed, self.output_tokens),
        }


@dataclass(slots=True)
class Contestant:
    """One side: its process while it runs, its answers by workload, and why it is out, if it is."""

    name: str
    precision: str
    module: str
    options: dict[str, Any]
    python: str | None = None
    ours: bool = False
    remote: Remote | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    failure: str | None = None

    def figures(self, workload: str) -> Figures:
        """Median over the rounds of each figure."""
        rounds = [figures(answer.streams) for answer in self.answers[workload]]
        return Figures(*(statistics.median(getattr(each, name) for each in rounds) for name in Figures.__slots__))

    def spread(self, workload: str) -> float:
        """How far the fastest round was ahead of the slowest, as a share."""
        rates = [figures(answer.streams).tokens_per_second for answer in self.answers[workload]]
        return max(rates) / min(rates) - 1

    def tokens(self) -> list[tuple[int, ...]]:
        """Everything that it generated in its first round."""
        return [stream.token_ids for answers in self.answers.values() for stream in answers[0].streams]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds, print and write the tables."""
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    recording = Recording(plan.device, quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
        model_dir = fixtures.write_model(Path(scratch) / "model", plan.size, fixtures.stored_dtype(plan.device))
        config = read_model_config(model_dir)
        contestants = [*_own(plan, model_dir), *_transformers(plan, model_dir)]
        if plan.device == "cpu" and not options.without_llama_cpp:
            contestants += _llama_cpp(plan, model_dir)
        contestants = [each for each in contestants if each.precision in plan.precisions]
        _compete(plan, contestants, plan.jobs(config.vocab_size), Path(scratch))
    environment = recording.facts()
    _check_agreement(contestants)
    tables = _tables(plan, config, contestants, recording.best.read)
    for title, rows in tables.items():
        print(f"\n{title}")
        for row in rows:
            print("  " + "  ".join(f"{name}={value}" for name, value in row.items() if value is not None))
    if not options.quick:
        name = f"peers_{plan.device}" + ("" if plan.size == "0.3b" else f"_{plan.size}")
        shown = {name: getattr(plan, name) for name in ("size", "prompt_tokens", "output_tokens", "rounds", "threads")}
        print("written to", write_result(name, environment, tables, plan=shown, benchmark="peers"))


def _own(plan: Plan, model_dir: Path) -> Iterator[Contestant]:
    """Our engine in every variant."""
    for variant, fields in fixtures.VARIANTS.items():
        options = {
            "model_dir": str(model_dir), "device": plan.device, "cpu_threads": plan.threads,
            "max_num_seqs": plan.sequences, "max_model_len": plan.most_tokens + 1, "enable_prefix_caching": False,
        } | fields  # fmt: skip
        yield Contestant("wenxin", variant, "wenxin", options, ours=True)


def _transformers(plan: Plan, model_dir: Path) -> Iterator[Contestant]:
    shared = {"model_dir": str(model_dir), "device": plan.device, "threads": plan.threads}
    sizes = {
        "sequences": plan.sequences, "tokens": plan.most_tokens,
        "batch_tokens": max(_TOKENS_OF_A_PASS[plan.device], plan.sequences),
    }  # fmt: skip
    for variant, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        options = shared | {"dtype": dtype}
        yield Contestant("transformers generate", variant, "hf_generate", options)
        yield Contestant("transformers continuous batching", variant, "hf_continuous", options | sizes)


def _llama_cpp(plan: Plan, model_dir: Path) -> Iterator[Contestant]:
    """llama.cpp's nearest formats: f16 stands beside our bf16, q8_0 beside our int8."""
    problem = None
    try:
        python = str(llama_environment.python())
    except llama_environment.NotBuilt as error:
        problem = str(error)
    for variant, name in (("fp32", "f32"), ("bf16", "f16"), ("int8", "q8_0")):
        path = model_dir / f"{name}.gguf"
        options = {
            "gguf": str(path), "threads": plan.threads, "sequences": plan.sequences, "tokens": plan.most_tokens,
            "kv": "f32" if name == "f32" else "f16", "unified": False,
        }  # fmt: skip
        contestant = Contestant(f"llama.cpp {name}", variant, "llama_cpp", options, failure=problem)
        if problem is None and variant in plan.precisions:
            contestant.python = python
            command = (python, "-m", "bench.contestants.gguf_file", str(model_dir), str(path), name)
            subprocess.run(command, check=True, cwd=REPOSITORY)
        yield contestant


def _compete(plan: Plan, contestants: Sequence[Contestant], jobs: dict[str, Job], scratch: Path) -> None:
    """Give every workload to every contestant, round after round. On a GPU they do not fit beside each other."""
    groups = [contestants] if plan.device == "cpu" else [[each] for each in contestants]
    for group in groups:
        deadline = time.monotonic() + plan.minutes * 60 / len(groups)
        with contextlib.ExitStack() as remotes:
            for contestant in group:
                _load(contestant, jobs[_PREFILL], scratch, remotes)
            for turn in range(plan.rounds):
                _round(group, turn, jobs, plan.limit_seconds)
                if time.monotonic() > deadline:
                    print(f"stopped after {turn + 1} rounds: --minutes {plan.minutes:g} are over")
                    break


def _round(group: Sequence[Contestant], turn: int, jobs: dict[str, Job], limit_seconds: float) -> None:
    """Let each answer every workload; who begins changes with the turn, and so does the direction."""
    begin = turn % len(group)
    order = [*group[begin:], *group[:begin]]
    for workload, job in jobs.items():
        for contestant in reversed(order) if turn % 2 else order:
            _answer(contestant, workload, job, limit_seconds)


def _load(contestant: Contestant, warm_up: Job, scratch: Path, remotes: contextlib.ExitStack) -> None:
    if contestant.failure:
        return
    log = scratch / f"{contestant.name}-{contestant.precision}.log".replace(" ", "-")
    executable = {"python": contestant.python} if contestant.python else {}
    contestant.remote = Remote(contestant.module, contestant.options, log, **executable)
    remotes.callback(contestant.remote.close)
    try:
        contestant.facts = contestant.remote.facts(_LOAD_SECONDS)
        contestant.remote.ask(Job(warm_up.prompts, 4), _LOAD_SECONDS)
        print(f"{contestant.name} {contestant.precision}: loaded", flush=True)
    except ContestantFailed as failed:
        _out(contestant, failed)


def _answer(contestant: Contestant, workload: str, job: Job, seconds: float) -> None:
    if contestant.failure or contestant.remote is None:
        return
    try:
        answer = contestant.remote.ask(job, seconds)
    except ContestantFailed as failed:
        _out(contestant, failed)
        return
    contestant.answers.setdefault(workload, []).append(answer)
    rate = figures(answer.streams).tokens_per_second
    print(f"{contestant.name} {contestant.precision}, {workload}: {rate:.1f} tokens/s", flush=True)


def _out(contestant: Contestant, failed: ContestantFailed) -> None:
    contestant.failure = str(failed)
    print(f"{contestant.name} {contestant.precision} is out: {failed}", flush=True)


def _check_agreement(contestants: Sequence[Contestant]) -> None:
    """Stop before anything is published, unless all compute the same model.

    Raises:
        SystemExit: two sides disagree in fp32.
    """
    for row in _agreement(contestants):
        if row["precision"] == "fp32" and (not row["first_tokens_agree"] or row["same_tokens"] < _SAME_SHARE):
            raise SystemExit(f"{row['contestant']} computes another model than {row['reference']}: {row}")


def _agreement(contestants: Sequence[Contestant]) -> Iterator[Row]:
    """Compare everybody's greedy tokens, up to the first other one, with a peer's, in fp32 if that runs."""
    running = [each for each in contestants if not each.failure]
    reference = min(running, key=lambda each: (each.precision != "fp32", each.ours), default=None)
    for each in contestants:
        if reference is None or each is reference or each.failure:
            continue
        pairs = list(zip(reference.tokens(), each.tokens(), strict=True))
        same = sum(_common(a, b) for a, b in pairs)
        yield {
            "contestant": each.name,
            "precision": each.precision,
            "reference": f"{reference.name} {reference.precision}",
            "same_tokens": round(same / sum(len(a) for a, _ in pairs), 3),
            "same_streams": f"{sum(a == b for a, b in pairs)}/{len(pairs)}",
            "first_tokens_agree": all(_common(a, b) >= _SAME_FIRST_TOKENS for a, b in pairs),
        }


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def _tables(plan: Plan, config: ModelConfig, contestants: Sequence[Contestant], read: float) -> dict[str, list[Row]]:
    running = [each for each in contestants if not each.failure]
    tables = {
        "ratios": list(_ratios(running)),
        "measured": [_measured(plan, config, each, read) for each in running],
        "agreement": list(_agreement(contestants)),
    }
    out = [
        {"contestant": each.name, "precision": each.precision, "reason": each.failure}
        for each in contestants
        if each.failure
    ]
    return tables | ({"not measured": out} if out else {})


def _measured(plan: Plan, config: ModelConfig, contestant: Contestant, read: float) -> Row:
    prefill, single, mixed = (contestant.figures(workload) for workload in contestant.answers)
    least = roofline.step_bytes(
        config, rows=1, context=plan.prompt_tokens + plan.output_tokens // 2,
        weight_bytes=fixtures.weight_bytes(contestant.precision),
        cache_bytes=fixtures.cache_bytes(contestant.precision, plan.device),
    )  # fmt: skip
    return {
        "contestant": contestant.name,
        "precision": contestant.precision,
        "prefill_ms": round(prefill.ttft_ms, 1),
        "1_sequence_tokens_per_second": round(single.tokens_per_second, 1),
        "1_sequence_decode_tokens_per_second": round(single.decode_tokens_per_second, 1),
        "share_of_read_bandwidth": round(least * single.decode_tokens_per_second / read, 3),
        f"{plan.sequences}_sequences_tokens_per_second": round(mixed.tokens_per_second, 1),
        f"{plan.sequences}_sequences_decode_tokens_per_second": round(mixed.decode_tokens_per_second, 1),
        f"{plan.sequences}_sequences_ttft_ms": round(mixed.ttft_ms, 1),
        "spread": round(max(map(contestant.spread, contestant.answers)), 3),
    }


def _ratios(running: Sequence[Contestant]) -> Iterator[Row]:
    """How many times as fast as each peer we are. Prefill by the time to the first token, the others by tokens/s."""
    for ours in (each for each in running if each.ours):
        for peer in (each for each in running if not each.ours and each.precision == ours.precision):
            row: Row = {"precision": ours.precision, "peer": peer.name}
            for workload in ours.answers:
                mine, theirs = ours.figures(workload), peer.figures(workload)
                row[workload] = round(mine.tokens_per_second / theirs.tokens_per_second, 2)
            yield row


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        options.size, options.sequences, options.prompt_tokens, options.output_tokens = "tiny", 3, 16, 6
        options.rounds = 1
    return Plan(
        device=options.device, size=options.size, sequences=options.sequences,
        precisions=tuple(options.precisions or fixtures.variants_for(options.device)),
        prompt_tokens=options.prompt_tokens, output_tokens=options.output_tokens, rounds=options.rounds,
        threads=options.threads, minutes=options.minutes, limit_seconds=options.limit_seconds,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny shape, one round; writes no result")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(fixtures.ARCHITECTURES), default="0.3b")
    parser.add_argument(
        "--precisions", nargs="+", choices=tuple(fixtures.VARIANTS), help="default: what the device runs"
    )
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8, help="no further round begins after them")
    parser.add_argument("--limit-seconds", type=float, default=120, help="most that one answer may take")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--without-llama-cpp", action="store_true", help="do not build or run llama.cpp")
    return parser


if __name__ == "__main__":
    main()
