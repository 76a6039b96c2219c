"""Answers from Redis over HTTP: how fast a hit is, how many there are in a second, and what work they save.

    python -m bench.answer_cache            # a tiny shape behind a real server and a real Redis, about a minute
    python -m bench.answer_cache --quick    # in seconds; writes nothing

The client speaks HTTP/1.1 over kept connections in this process, pinned to one core; the server, engine included, has
another to itself where there are two, and Redis a third where there are three. `server_p50_ms` is from a request's
headers to the last byte of its answer by the server's own histogram; `p50_ms` and `p99_ms` are the client's.
`hits_per_core_second` counts only the time that the server's process was computing, whoever else wanted the core.
Where that time goes is found by looking at the stack of another server every few milliseconds. The engine's share is
measured with prompts drawn by Zipf's law, once with the cache and once without: what is generated twice is what the
cache saves.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from bench import fixtures, sampled_server
from bench.environment import Recording, Row, write_result
from bench.redis_server import RedisServer
from bench.server_process import serving
from bench.streams import percentile

_VOCABULARY = 1500
# The least that the kernel counts of a process' time.
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Plan:
    """Distinct prompts, their length and their answers', and how many requests; the profile's are `looked_at`."""

    prompts: int
    prompt_tokens: int
    answer_tokens: int
    hits: int
    connections: tuple[int, ...]
    looked_at: int
    drawn: int
    zipf: float


class Connection:
    """One kept connection; requests on it go one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, body: bytes) -> tuple[int, str]:
        """Ask for a completion; returns its status and where it came from."""
        head = f"POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        await self._reader.readexactly(int(headers["content-length"]))
        return int(status.split(" ")[1]), headers.get("x-wenxin-cache", "")

    def close(self) -> None:
        """Close it."""
        self._writer.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few requests; writes nothing")
    options = parser.parse_args(arguments)
    plan = (
        Plan(3, 16, 4, hits=30, connections=(1, 4), looked_at=60, drawn=20, zipf=1.0)
        if options.quick
        else Plan(100, 256, 64, hits=5000, connections=(1, 16), looked_at=30_000, drawn=600, zipf=1.0)
    )
    recording = Recording(rates=False, quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="wenxin-bench-") as scratch:
        results = _measure(plan, Path(scratch))
    for title, rows in results.items():
        print(title)
        for row in rows:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        shown = {
            "prompts": plan.prompts, "prompt_tokens": plan.prompt_tokens, "answer_tokens": plan.answer_tokens,
            "zipf_exponent": plan.zipf,
        }  # fmt: skip
        print(
            "written to", write_result("answer_cache", recording.facts(), results, plan=shown, benchmark="answer_cache")
        )


def _measure(plan: Plan, scratch: Path) -> dict[str, list[Row]]:
    model_dir = fixtures.write_model(scratch / "model", "tiny")
    bodies = _bodies(plan)
    cores = sorted(os.sched_getaffinity(0))
    flags = ("--device=cpu", "--cpu-threads=1")
    counts = scratch / "looks.json"
    sampled = ("bench.sampled_server", str(counts))
    with _redis(scratch, cores[2 % len(cores)]) as redis_url, _pinned(cores[1 % len(cores)]):
        cached = (*flags, f"--redis-url={redis_url}")
        with serving(model_dir, scratch / "log", *cached) as url, _pinned(cores[0]):
            _ask(url, bodies, 4)  # fills the cache
            hits = [_hits(plan, url, bodies, connections) for connections in plan.connections]
        with serving(model_dir, scratch / "log", *cached, program=sampled) as url, _pinned(cores[0]):
            _ask(url, _in_turn(bodies, plan.looked_at), 1)
        with_cache = _zipf(plan, model_dir, scratch, bodies, *flags, f"--redis-url={redis_url}?db=1")
        without = _zipf(plan, model_dir, scratch, bodies, *flags)
    saved = {"saved_share_of_tokens": round(1 - with_cache["generated_tokens"] / without["generated_tokens"], 3)}
    return {
        "hits": hits,
        "where the server's time goes": sampled_server.rows(counts),
        "work saved": [{"cache": "on", **with_cache, **saved}, {"cache": "off", **without}],
    }


def _bodies(plan: Plan) -> list[bytes]:
    dice = random.Random(45)
    fields = {"max_tokens": plan.answer_tokens, "temperature": 0, "ignore_eos": True}
    prompts = (fixtures.prompt(dice, _VOCABULARY, plan.prompt_tokens) for _ in range(plan.prompts))
    return [json.dumps({"prompt": prompt, **fields}).encode() for prompt in prompts]


def _in_turn(bodies: Sequence[bytes], count: int) -> list[bytes]:
    return [bodies[number % len(bodies)] for number in range(count)]


def _hits(plan: Plan, url: str, bodies: Sequence[bytes], connections: int) -> Row:
    before = _metrics(url)
    seconds, latencies, found = _ask(url, _in_turn(bodies, plan.hits), connections)
    spent = {name: value - before[name] for name, value in _metrics(url).items()}
    return {
        "connections": connections,
        "hit_share": round(found.get("hit", 0) / plan.hits, 3),  # 1, unless something else has the cores
        "answers_per_second": round(plan.hits / seconds),
        "hits_per_core_second": round(plan.hits / max(spent["process_cpu_seconds_total"], _TICK_SECONDS)),
        "server_p50_ms": round(1e3 * _median(spent, "wenxin_answer_cache_hit_seconds"), 2),
        "p50_ms": round(1e3 * percentile(latencies, 0.5), 2),
        "p99_ms": round(1e3 * percentile(latencies, 0.99), 2),
    }


def _median(samples: Mapping[str, float], histogram: str) -> float:
    """Find the value that half of a histogram is below, as Prometheus does: on a straight line through its bucket."""
    found = re.compile(re.escape(histogram) + r'_bucket\{le="([^"]+)"\}').fullmatch
    buckets = [(float(match[1]), count) for name, count in samples.items() if (match := found(name))]
    half = buckets[-1][1] / 2
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= half > below:
            return lower + (bound - lower) * (half - below) / (count - below)
        lower, below = bound, count
    return 0.0  # there were none


def _zipf(plan: Plan, model_dir: Path, scratch: Path, bodies: Sequence[bytes], *flags: str) -> Row:
    dice = random.Random(45)
    weights = [1 / rank**plan.zipf for rank in range(1, len(bodies) + 1)]
    asked = dice.choices(bodies, weights, k=plan.drawn)
    with serving(model_dir, scratch / "log", *flags) as url:
        seconds, _, found = _ask(url, asked, 8)
        generated = int(_metrics(url)["wenxin_generation_tokens_total"])
    answered = {f"{how}_share": round(found.get(how, 0) / plan.drawn, 3) for how in ("hit", "shared") if found.get(how)}
    return {"requests": plan.drawn, "seconds": round(seconds, 2), "generated_tokens": generated, **answered}


def _metrics(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def _ask(url: str, bodies: Sequence[bytes], connections: int) -> tuple[float, list[float], dict[str, int]]:
    return asyncio.run(_asked(url, bodies, connections))


async def _asked(url: str, bodies: Sequence[bytes], connections: int) -> tuple[float, list[float], dict[str, int]]:
    """Ask over so many connections; returns seconds in all, each request's, and counts by where answers came from."""
    latencies: list[float] = []
    found: dict[str, int] = {}
    left = iter(bodies)
    place = urlsplit(url)
    opened = [Connection(*await asyncio.open_connection(place.hostname, place.port)) for _ in range(connections)]

    async def work(connection: Connection) -> None:
        for body in left:
            began = time.perf_counter()
            status, how = await connection.post(body)
            if status != httpx.codes.OK:
                raise RuntimeError(f"a request failed with status {status}")
            latencies.append(time.perf_counter() - began)
            found[how] = found.get(how, 0) + 1

    began = time.perf_counter()
    await asyncio.gather(*map(work, opened))
    seconds = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return seconds, latencies, found


@contextlib.contextmanager
def _redis(scratch: Path, core: int) -> Iterator[str]:
    """Run a Redis on a socket; yields its URL."""
    redis = RedisServer(scratch)
    with _pinned(core):
        redis.start()
    try:
        yield redis.url
    finally:
        redis.stop()


@contextlib.contextmanager
def _pinned(core: int) -> Iterator[None]:
    """Keep this process, and those that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()
