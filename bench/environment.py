"""Where a number was measured: the host, the versions, the commit, and what memory and arithmetic can do there.

The machine's own rates are measured before and after the benchmark, in the same process: a share of a rate is only as
good as the rate. What other processes took of the cores meanwhile is counted, and marks the result.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1

Row = dict[str, Any]
Results = list[Row] | dict[str, list[Row]]

_REPOSITORY = Path(__file__).parent.parent
_PACKAGES = ("torch", "triton", "transformers", "tokenizers", "llguidance", "starlette", "uvicorn", "kopf", "aiohttp")
# What a benchmark itself writes makes no clone dirty.
_SOURCES = (".", ":!bench/results", ":!docs/performance.md")
# The columns of /proc/stat that are work, of the host or of its neighbours: all but idle, iowait and the guests' twins.
_WORK = (0, 1, 2, 5, 6, 7)
_BUSY_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Rates:
    """What the device can do at most: bytes read per second, and FLOP per second of torch's own matrix product."""

    read: float
    gemm: float


class Recording:
    """Begins before the first measurement; `facts` ends it, once the benchmark's own processes have ended."""

    def __init__(self, device: str = "cpu", *, rates: bool = True, quick: bool = False) -> None:
        """Measure the device's rates, unless the benchmark has no use for them."""
        self._device = device
        self._quick = quick
        self._load = os.getloadavg()[0]
        self._began = (time.monotonic(), _work_seconds(), _own_seconds())
        self._before = self._after = self._rates() if rates else None

    @property
    def best(self) -> Rates:
        """The higher of each rate before and after: shares that we publish are of the best that was seen.

        Raises:
            RuntimeError: no rates were asked for.
        """
        if self._before is None or self._after is None:
            raise RuntimeError("this recording has no rates")
        return Rates(max(self._before.read, self._after.read), max(self._before.gemm, self._after.gemm))

    def facts(self) -> dict[str, Any]:
        """Measure once more and describe the whole. Children that still run would count as somebody else's work."""
        facts = describe(self._device)
        if self._before:
            before, after = self._before, self._rates()
            self._after = after
            facts["read_gb_per_s"] = {"before": _giga(before.read), "after": _giga(after.read)}
            facts["gemm_gflop_per_s"] = {"before": _giga(before.gemm), "after": _giga(after.gemm)}
        began, work, own = self._began
        elapsed = time.monotonic() - began
        others = max(0.0, (_work_seconds() - work) - (_own_seconds() - own)) / elapsed
        return facts | {
            "seconds": round(elapsed),
            "load_average": {"before": round(self._load, 2), "after": round(os.getloadavg()[0], 2)},
            "cores_taken_by_others": round(others, 2),
            "busy": others > _BUSY_SHARE * len(os.sched_getaffinity(0)),
        }

    def _rates(self) -> Rates:
        if self._quick:
            return Rates(read_bandwidth(0.01, 2, self._device), gemm_rate(256, 2, self._device))
        return Rates(read_bandwidth(device=self._device), gemm_rate(device=self._device))


def describe(device: str = "cpu") -> dict[str, Any]:
    """Name the host and the software, without anything that identifies the machine."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _git("rev-parse", "--short=10", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--", *_SOURCES)),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = properties.name
        facts["gpu_memory_gib"] = round(properties.total_memory / 2**30)
        facts["cuda"] = torch.version.cuda or torch.version.hip
    return facts


def read_bandwidth(gigabytes: float = 1.0, repeats: int = 7, device: str = "cpu") -> float:
    """Measure what the device reads from its memory, in bytes per second: the best of several sums over a tensor."""
    data = torch.ones(int(gigabytes * 2**30 / 4), device=device)
    return data.numel() * data.element_size() / _best_seconds(data.sum, repeats, device)


def gemm_rate(size: int = 2048, repeats: int = 7, device: str = "cpu") -> float:
    """Measure torch's own matrix product, in FLOP per second: fp32 on a CPU; bf16, four times as wide, on a GPU."""
    if device == "cuda":
        size *= 4
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: a @ b, repeats, device)


def write_result(
    name: str, environment: dict[str, Any], results: Results, *, plan: dict[str, Any] | None = None, benchmark: str = ""
) -> Path:
    """Write `bench/results/NAME.json`, readable in a diff; README.md in this folder says what is in it.

    Args:
        name: Stem of the file.
        environment: What `Recording.facts` gave.
        results: Rows of numbers and words, or several titled lists of rows; docs/performance.md shows them as tables.
        plan: What was asked for: sizes, lengths, limits.
        benchmark: The module below `bench` that measures it, where that is not `name`.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    envelope = {
        "schema": SCHEMA,
        "benchmark": benchmark or name,
        "environment": environment,
        "plan": plan or {},
        "results": results,
    }
    path.write_text(json.dumps(envelope, indent=2, ensure_ascii=False) + "\n")
    return path


def _best_seconds(work: Any, repeats: int, device: str) -> float:
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up, and is never the best
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _giga(rate: float) -> float:
    return round(rate / 1e9, 1)


def _work_seconds() -> float:
    """Seconds that all cores have worked since boot, for anybody."""
    columns = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(columns[i] for i in _WORK) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Seconds of work of this process and of its ended children."""
    return sum(os.times()[:4])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip()
