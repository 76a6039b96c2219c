"""What the machine lends this process: cores and memory, by the cgroup's limits where there are some. No torch."""

import ctypes
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Count the cores this process may use: its affinity, cut to the cgroup's CPU quota, at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, int(quota) // int(period))
    return max(cores, 1)


def available_memory(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int:
    """Estimate the bytes that can still be allocated without swapping or being killed.

    Pages of mapped files count as available: the kernel drops them on demand.
    """
    available = _field(_read(meminfo), "MemAvailable:") * 1024
    limit = _read(cgroup / "memory.max").strip()
    if limit.isdigit():
        used = int(_read(cgroup / "memory.current").strip() or 0)
        reclaimable = _field(_read(cgroup / "memory.stat"), "inactive_file")
        available = min(available, int(limit) - used + reclaimable)
    return max(available, 0)


def return_freed_memory() -> None:
    """Give the kernel what the C library has kept of freed memory; only glibc's can be told to.

    After loading that is much: weights are read, converted and packed between those that stay.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _field(text: str, name: str) -> int:
    """Find `NAME NUMBER` among the lines; 0 where it is missing."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0
