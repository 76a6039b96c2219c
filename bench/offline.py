"""The engine alone: prefill and decode by batch size, a step's phases, and the shares of what the device can do.

    python -m bench.offline                                  # the 0.3B shape on this CPU, about five minutes
    python -m bench.offline --device cuda --size 21b-a3b     # on a GPU
    python -m bench.offline --quick                          # a tiny shape in seconds; writes nothing

Each variant runs in a process of its own. A decode figure is the median step in which every sequence gets one token;
its share is of the measured read bandwidth, for the weights and the KV cache that the step must read. A prefill figure
is the best of several prompts on an idle engine; its share is of torch's own matrix product.
"""

import argparse
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import fixtures, roofline
from bench.contestants.protocol import Answer, ContestantFailed, Job, Remote, Step
from bench.environment import Rates, Recording, Row, write_result
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config

_LOAD_SECONDS = 1800
_JOB_SECONDS = 600
_PREFILL_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. Decoding begins behind prompts of `context` tokens."""

    device: str
    size: str
    variants: tuple[str, ...]
    batches: tuple[int, ...]
    context: int
    output_tokens: int
    prompts: tuple[int, ...]
    threads: int
    flags: dict[str, Any]

    def options(self, variant: str, model_dir: Path) -> dict[str, Any]:
        """Fields of RuntimeConfig."""
        longest = max(self.context + self.output_tokens, *self.prompts) + 1
        return {
            "model_dir": str(model_dir), "device": self.device, "cpu_threads": self.threads, "max_model_len": longest,
            "max_num_seqs": max(self.batches), "enable_prefix_caching": False,
        } | fixtures.VARIANTS[variant] | self.flags  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """Answers of one variant: by batch, and by length of the prompt the best of the repeats."""

    variant: str
    decoded: dict[int, Answer]
    prefilled: dict[int, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every variant, print and write the tables."""
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    recording = Recording(plan.device, quick=options.quick)
    failures: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
        model_dir = fixtures.write_model(Path(scratch) / "model", plan.size, fixtures.stored_dtype(plan.device))
        config = read_model_config(model_dir)
        measured = list(_variants(plan, model_dir, config, failures))
    environment = recording.facts()
    tables = {
        "decode": [row for each in measured for row in _decode_rows(plan, config, each, recording.best)],
        "prefill": [row for each in measured for row in _prefill_rows(config, each, recording.best)],
    } | ({"failed": failures} if failures else {})
    for row in (*tables["decode"], *tables["prefill"]):
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        name = f"offline_{plan.device}" + ("" if plan.size == "0.3b" else f"_{plan.size}")
        shown = {"size": plan.size, "device": plan.device, "threads": plan.threads, "flags": plan.flags}
        print("written to", write_result(name, environment, tables, plan=shown, benchmark="offline"))


def _variants(plan: Plan, model_dir: Path, config: ModelConfig, failures: list[Row]) -> Iterator[Measured]:
    for variant in plan.variants:
        print(f"{variant}: loading", flush=True)
        remote = Remote("wenxin", plan.options(variant, model_dir), model_dir.parent / f"{variant}.log")
        try:
            remote.facts(_LOAD_SECONDS)
            yield _measure(plan, remote, variant, config.vocab_size)
        except ContestantFailed as failed:
            print(f"{variant}: {failed}", flush=True)
            failures.append({"variant": variant, "error": str(failed)})
        finally:
            remote.close()


def _measure(plan: Plan, remote: Remote, variant: str, vocabulary: int) -> Measured:
    dice = random.Random(45)

    def job(many: int, length: int, output_tokens: int) -> Job:
        return Job(tuple(fixtures.prompt(dice, vocabulary, length) for _ in range(many)), output_tokens)

    remote.ask(job(1, plan.context, 2), _JOB_SECONDS)
    prefilled = {
        length: min(remote.ask(job(1, length, 1), _JOB_SECONDS).streams[0].ttft for _ in range(_PREFILL_REPEATS))
        for length in plan.prompts
    }
    decoded = {}
    for batch in plan.batches:
        print(f"{variant}: batch {batch}", flush=True)
        decoded[batch] = remote.ask(job(batch, plan.context, plan.output_tokens), _JOB_SECONDS)
    return Measured(variant, decoded, prefilled)


def _decode_rows(plan: Plan, config: ModelConfig, measured: Measured, rates: Rates) -> Iterator[Row]:
    for batch, answer in measured.decoded.items():
        steps = [step for step in answer.steps if step.tokens == step.sequences == batch]
        if not steps:
            continue
        seconds = statistics.median(step.seconds for step in steps)
        least = roofline.step_bytes(
            config, rows=batch, context=plan.context + plan.output_tokens // 2,
            weight_bytes=fixtures.weight_bytes(measured.variant),
            cache_bytes=fixtures.cache_bytes(measured.variant, plan.device),
        )  # fmt: skip
        yield {
            "variant": measured.variant,
            "batch": batch,
            "context": plan.context,
            "tokens_per_second": round(batch / seconds, 1),
            "step_ms": _ms(seconds),
            **_phases(steps),
            "read_gb_per_s": round(least / seconds / 1e9, 1),
            "share_of_read_bandwidth": round(least / seconds / rates.read, 3),
        }


def _phases(steps: Sequence[Step]) -> dict[str, float]:
    """Median milliseconds by phase. The rest of a step's time is the loop around it, or overlaps."""
    return {
        f"{phase}_ms": _ms(statistics.median(getattr(step, phase) for step in steps))
        for phase in ("schedule", "forward", "sample")
    }


def _prefill_rows(config: ModelConfig, measured: Measured, rates: Rates) -> Iterator[Row]:
    for length, seconds in measured.prefilled.items():
        rate = roofline.prefill_flops(config, length) / seconds
        yield {
            "variant": measured.variant,
            "prompt_tokens": length,
            "tokens_per_second": round(length / seconds, 1),
            "ttft_ms": _ms(seconds),
            "gflop_per_s": round(rate / 1e9, 1),
            "share_of_gemm_rate": round(rate / rates.gemm, 3),
        }


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        options.size, options.batches, options.prompts, options.context = "tiny", [1, 4], [16], 16
        options.output_tokens = 8
    variants = options.variants or fixtures.variants_for(options.device)
    return Plan(
        device=options.device, size=options.size, variants=tuple(variants), batches=tuple(options.batches),
        context=options.context, output_tokens=options.output_tokens, prompts=tuple(options.prompts),
        threads=options.threads, flags=dict(flag.split("=", 1) for flag in options.flag),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.offline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny shape; writes no result")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(fixtures.ARCHITECTURES), default="0.3b")
    parser.add_argument("--variants", nargs="+", choices=tuple(fixtures.VARIANTS), help="default: what the device runs")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--context", type=int, default=128, help="tokens in the cache when decoding begins")
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 512], help="lengths of prompts for prefill")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--flag", action="append", default=[], help="a further field of RuntimeConfig, as name=value")
    return parser


if __name__ == "__main__":
    main()
