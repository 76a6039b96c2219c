"""A server under load over HTTP: latencies, goodput, prefix hits and failures.

    python -m bench.serve                                       # our server with the 0.3B shape, about seven minutes
    python -m bench.serve --url http://127.0.0.1:8000 --write NAME  # any OpenAI server that takes prompts as token ids
    python -m bench.serve --quick                               # a tiny shape in seconds; writes nothing

Closed loops keep a number of requests open; Poisson arrivals come at a rate whatever the server does, and are timed
from when they were due. Long and short prompts are mixed, and some share a prefix. Goodput counts the requests whose
first token and whose mean time between tokens kept the objective. The client takes part of the same cores.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from bench import fixtures
from bench.environment import Recording, Row, write_result
from bench.load import Bounds, Case, Mix, Outcome, Target, run
from bench.server_process import serving
from bench.streams import Stream, percentile

_LOADS: dict[str, tuple[list[int], list[float]]] = {
    "cpu": ([1, 4, 16], [0.5, 1.0, 2.0]),
    "cuda": ([1, 16, 64], [4.0, 16.0, 32.0]),
}
_SLOTS = {"cpu": 16, "cuda": 256}
_TAILS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# Ids that every ERNIE tokenizer has, and others' too; the server checks them against its own vocabulary.
_VOCABULARY = {"tiny": 1500, "0.3b": 100_000, "21b-a3b": 100_000}


@dataclass(frozen=True, slots=True)
class Objective:
    """What a user would call fast enough, in milliseconds."""

    ttft_ms: float
    itl_ms: float

    def kept(self, stream: Stream) -> bool:
        """Whether a stream was: its first token, and the mean of the gaps behind it."""
        mean = statistics.fmean(stream.gaps) if stream.gaps else 0.0
        return 1e3 * stream.ttft <= self.ttft_ms and 1e3 * mean <= self.itl_ms


def main(arguments: Sequence[str] | None = None) -> None:
    """Put every load on the server, print and write the table."""
    options = _parser().parse_args(arguments)
    if options.quick:
        _shrink(options)
    mix = Mix(
        options.short, options.long, options.long_share, options.prefixes, options.prefix_tokens, options.prefix_share,
        options.output_tokens,
    )  # fmt: skip
    concurrency, rates = _LOADS[options.device]
    cases = [Case("closed", many) for many in (concurrency if options.concurrency is None else options.concurrency)]
    cases += [Case("poisson", rate) for rate in (rates if options.rates is None else options.rates)]
    recording = Recording(options.device, quick=options.quick)
    with _target_url(options, mix, cases) as url:
        rows = asyncio.run(_measure(url, options, mix, cases))
    environment = recording.facts()
    name = options.write or f"serve_{options.device}"
    if not options.quick and (options.write or not options.url):
        plan = {
            "server": "wenxin" if not options.url else options.write, "size": options.size, "variant": options.variant,
            "flags": options.flag, **asdict(mix), "slo_ttft_ms": options.slo_ttft_ms, "slo_itl_ms": options.slo_itl_ms,
        }  # fmt: skip
        print("written to", write_result(name, environment, rows, plan=plan, benchmark="serve"))


async def _measure(url: str, options: argparse.Namespace, mix: Mix, cases: Sequence[Case]) -> list[Row]:
    objective = Objective(options.slo_ttft_ms, options.slo_itl_ms)
    bounds = Bounds(options.requests, options.seconds, options.seconds)
    vocabulary = _VOCABULARY[options.size]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=2 * options.seconds, limits=limits, trust_env=False) as client:
        target = Target(client, await _model(client))
        await run(target, Case("closed", 1), Bounds(1, 60, 60), mix.requests("warm up", vocabulary), "warm up")
        rows = []
        for case in cases:
            began = time.perf_counter()
            outcomes = await run(target, case, bounds, mix.requests(case.name, vocabulary), case.name)
            rows.append(row := _row(case, outcomes, objective, time.perf_counter() - began))
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return rows


async def _model(client: httpx.AsyncClient) -> str:
    listed = (await client.get("/v1/models")).raise_for_status()
    return str(listed.json()["data"][0]["id"])


def _row(case: Case, outcomes: Sequence[Outcome], objective: Objective, seconds: float) -> Row:
    """Sum up one load. Rates count whole answers only; a failure keeps no objective."""
    streams = [outcome.stream for outcome in outcomes if outcome.stream]
    kept = sum(map(objective.kept, streams))
    failures = Counter(outcome.failure for outcome in outcomes if outcome.failure)
    row: Row = {
        "load": case.name,
        "requests": len(outcomes),
        "failures": ", ".join(f"{many} x {what}" for what, many in failures.items()) or 0,
        "requests_per_second": round(len(streams) / seconds, 2),
        "output_tokens_per_second": round(sum(len(stream.arrivals) for stream in streams) / seconds, 1),
        "goodput_share": round(kept / len(outcomes), 3),
        "goodput_requests_per_second": round(kept / seconds, 2),
        "prefix_hit_rate": _hit_rate(outcomes),
    }
    if streams:
        row |= _latencies("ttft", [stream.ttft for stream in streams])
        row |= _latencies("itl", [gap for stream in streams for gap in stream.gaps] or [0.0])
        row |= _latencies("e2e", [stream.seconds for stream in streams])
    return row


def _latencies(name: str, seconds: Sequence[float]) -> Row:
    return {f"{name}_{tail}_ms": round(1e3 * percentile(seconds, share), 1) for tail, share in _TAILS.items()}


def _hit_rate(outcomes: Sequence[Outcome]) -> float | None:
    told = [outcome for outcome in outcomes if outcome.cached_tokens is not None]
    if not told:
        return None
    return round(sum(each.cached_tokens or 0 for each in told) / sum(each.prompt_tokens for each in told), 3)


@contextlib.contextmanager
def _target_url(options: argparse.Namespace, mix: Mix, cases: Sequence[Case]) -> Iterator[str]:
    """The server that was named, or one of ours for as long as the benchmark lasts."""
    if options.url:
        yield options.url
        return
    fields = fixtures.VARIANTS[options.variant] | {"device": options.device, "cpu_threads": str(options.threads)}
    slots = max([int(case.level) for case in cases if case.kind == "closed"] + [_SLOTS[options.device]])
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    flags += [f"--max-num-seqs={slots}", f"--max-model-len={mix.most_tokens}", *options.flag]
    with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
        model_dir = fixtures.write_model(Path(scratch) / "model", options.size)
        with serving(model_dir, Path(scratch) / "server.log", *flags) as url:
            yield url


def _shrink(options: argparse.Namespace) -> None:
    options.size, options.concurrency, options.rates, options.requests, options.seconds = "tiny", [2], [20.0], 6, 20.0
    options.short, options.long, options.prefix_tokens, options.output_tokens = 8, 32, 64, 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny shape, a few requests; writes no result")
    add("--url", help="a server that runs already (default: start ours on the loopback)")
    add("--write", metavar="NAME", help="write bench/results/NAME.json (default with our server: serve_DEVICE)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--size", choices=tuple(fixtures.ARCHITECTURES), default="0.3b")
    add("--variant", choices=tuple(fixtures.VARIANTS), default="bf16")
    add("--flag", action="append", default=[], help="a further flag of our server, such as --flag=--seed=1")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--concurrency", nargs="*", type=int, help="closed loops (default: 1 4 16, on a GPU 1 16 64)")
    add("--rates", nargs="*", type=float, help="Poisson arrivals per second (default: 0.5 1 2, on a GPU 4 16 32)")
    add("--requests", type=int, default=60, help="most requests of one load")
    add("--seconds", type=float, default=50.0, help="most time of one load; open requests have as long again to end")
    add("--short", type=int, default=64, help="tokens of a short prompt's own part")
    add("--long", type=int, default=384, help="tokens of a long prompt's own part")
    add("--long-share", type=float, default=0.2)
    add("--prefixes", type=int, default=2, help="how many different shared prefixes")
    add("--prefix-tokens", type=int, default=128)
    add("--prefix-share", type=float, default=0.5)
    add("--output-tokens", type=int, default=32)
    add("--slo-ttft-ms", type=float, default=2000.0, help="the objective for the first token")
    add("--slo-itl-ms", type=float, default=200.0, help="the objective for the mean time between tokens")
    return parser


if __name__ == "__main__":
    main()
