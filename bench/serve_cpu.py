"""Serve the 0.3B shape on this CPU, us against transformers: same weights, same prompts, one run.

    python -m bench.serve_cpu            # about six minutes on two cores
    python -m bench.serve_cpu --quick    # the tiny shape, to see that it works

The weights are random: speed does not depend on their values. Both sides get the same number of threads and are
measured from the client's side; ours with HTTP, streaming and detokenising included.
"""

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environment import describe, gemm_rate, read_bandwidth, write_result
from bench.server_process import ask, serving, step_seconds
from bench.streams import Figures, Stream, figures

Prompts = list[list[int]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. Prompt lengths are mixed around `prompt_tokens`, from half to one and a half of it."""

    size: str
    dtypes: tuple[str, ...]
    concurrency: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int
    threads: int

    def batches(self, vocabulary: int) -> list[Prompts]:
        """One batch of random prompts per concurrency, the same in every run."""
        dice = random.Random(45)
        spread = range(self.prompt_tokens // 2, self.prompt_tokens * 3 // 2 + 1)
        return [
            [
                [dice.randrange(10, vocabulary) for _ in range(dice.choice(spread) if many > 1 else self.prompt_tokens)]
                for _ in range(many)
            ]
            for many in self.concurrency
        ]


def main() -> None:
    """Run the plan, print a table, write the result."""
    options = _parser().parse_args()
    plan = Plan(
        size="tiny" if options.quick else "0.3b", dtypes=tuple(options.dtypes), concurrency=tuple(options.concurrency),
        prompt_tokens=options.prompt_tokens, output_tokens=options.output_tokens, threads=len(os.sched_getaffinity(0)),
    )  # fmt: skip
    result: dict[str, Any] = {**describe(), "plan": dataclasses.asdict(plan), "runs": []}
    result["read_gb_per_s"] = round(read_bandwidth() / 1e9, 2)
    result["fp32_gemm_gflop_per_s"] = round(gemm_rate() / 1e9, 1)
    print(
        f"memory {result['read_gb_per_s']} GB/s, GEMM {result['fp32_gemm_gflop_per_s']} GFLOP/s, {plan.threads} threads"
    )
    with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
        model_dir = Path(scratch) / "model"
        fixture = ("fixture", str(model_dir), "--arch=ernie4_5", f"--size={plan.size}", "--dtype=bfloat16")
        subprocess.run([sys.executable, "-m", "wenxin_runtime", *fixture], check=True, stdout=subprocess.DEVNULL)
        for dtype in plan.dtypes:
            result["runs"] += measure(plan, model_dir, dtype, result["read_gb_per_s"] * 1e9)
    if not options.quick:
        print("written to", write_result(f"serve_cpu_{plan.size}", describe(), result["runs"], plan=result["plan"]))


def measure(plan: Plan, model_dir: Path, dtype: str, bandwidth: float) -> list[dict[str, Any]]:
    """Run both sides in one dtype; one row per concurrency."""
    config = json.loads((model_dir / "config.json").read_text())
    batches = plan.batches(config["vocab_size"])
    theirs = _transformers(plan, model_dir, dtype, batches)
    ours, phases = _wenxin(plan, model_dir, dtype, batches)
    weights = (model_dir / "model.safetensors").stat().st_size * (2 if dtype == "float32" else 1)
    rows = []
    for many, us, them, phase in zip(plan.concurrency, ours, theirs, phases, strict=True):
        row = _row(dtype, many, us, them, phase, weights / bandwidth)
        rows.append(row)
        _print(row)
    return rows


def _row(
    dtype: str, many: int, us: Sequence[Stream], them: Sequence[Stream], phase: dict[str, float], roofline_step: float
) -> dict[str, Any]:
    mine, peer = figures(us), figures(them)
    row = {
        "dtype": dtype,
        "concurrency": many,
        "wenxin": _rounded(mine),
        "transformers": _rounded(peer),
        "ratio": round(mine.tokens_per_second / peer.tokens_per_second, 2),
        "same_tokens": f"{sum(a.token_ids == b.token_ids for a, b in zip(us, them, strict=True))}/{len(us)}",
        "step_seconds_by_phase": {name: round(seconds, 4) for name, seconds in phase.items()},
    }
    if many == 1:
        row["share_of_read_bandwidth"] = round(mine.decode_tokens_per_second * roofline_step, 3)
    return row


def _transformers(plan: Plan, model_dir: Path, dtype: str, batches: list[Prompts]) -> list[list[Stream]]:
    job = {
        "model_dir": str(model_dir),
        "dtype": dtype,
        "threads": plan.threads,
        "batches": batches,
        "output_tokens": plan.output_tokens,
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.peer_transformers"],
        input=json.dumps(job),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},  # as our engine sets it, or a busy host would flatter us
    )
    return [
        [Stream(s["started"], tuple(s["arrivals"]), tuple(s["token_ids"])) for s in batch]
        for batch in json.loads(done.stdout)
    ]


def _wenxin(
    plan: Plan, model_dir: Path, dtype: str, batches: list[Prompts]
) -> tuple[list[list[Stream]], list[dict[str, float]]]:
    """Return the streams and, per batch, the engine's seconds by phase."""
    flags = (
        f"--dtype={dtype}",
        f"--max-num-seqs={max(plan.concurrency)}",
        f"--cpu-threads={plan.threads}",
        "--no-enable-prefix-caching",
        "--max-model-len=2048",
    )
    answers, phases = [], []
    with serving(model_dir, model_dir.parent / "server.log", "--device=cpu", *flags) as url:
        ask(url, model_dir.name, [batches[0][0]], 4)
        for batch in batches:
            before = step_seconds(url)
            answers.append(ask(url, model_dir.name, batch, plan.output_tokens))
            phases.append({phase: seconds - before.get(phase, 0.0) for phase, seconds in step_seconds(url).items()})
    return answers, phases


def _rounded(row: Figures) -> dict[str, float]:
    return {name: round(value, 2) for name, value in dataclasses.asdict(row).items()}


def _print(row: dict[str, Any]) -> None:
    us, them = row["wenxin"], row["transformers"]
    share = row.get("share_of_read_bandwidth")
    print(
        f"{row['dtype']:>9} x{row['concurrency']:<3} "
        f"tok/s {us['tokens_per_second']:7.1f} vs {them['tokens_per_second']:7.1f} ({row['ratio']:.2f}x)  "
        f"TTFT {us['ttft_p50_ms']:.0f} vs {them['ttft_p50_ms']:.0f} ms  "
        f"ITL {us['itl_p50_ms']:.1f} vs {them['itl_p50_ms']:.1f} ms  "
        f"same tokens {row['same_tokens']}" + (f"  bandwidth {share:.0%}" if share else "")
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serve_cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the tiny shape; writes no result")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    return parser


if __name__ == "__main__":
    main()
