"""What loading takes on each rank: seconds, and host memory over what stays.

Every rank is a process of its own that reads its part of the checkpoint, all at the same time, as when they serve.
Resident memory counts the mapped pages of the files too, which the kernel takes back when it needs them, and so does
its high-water mark VmHWM: so anonymous memory (RssAnon) is sampled, every millisecond. What of its peak is gone when
the rank has loaded was needed beside the weights, which on a CPU are host memory themselves.
"""

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from bench.environment import Row
from wenxin_runtime import config as runtime_config
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.loaded import Loaded, load
from wenxin_runtime.parallel.ranks import Alone, Mesh
from wenxin_runtime.weights.checkpoint import Checkpoint, open_checkpoint

_EVERY_SECONDS = 0.001
_AT_MOST_SECONDS = 600


class Member(Alone):
    """One of several ranks while it loads, which needs nobody else."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class Peak:
    """The most anonymous memory of this process while it is open, beyond what it had before, in bytes."""

    def __enter__(self) -> Self:
        self.before = self.peak = anonymous_bytes()
        self._over = threading.Event()
        self._sampling = threading.Thread(target=self._sample, daemon=True)
        self._sampling.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._sampling.join()
        self.kept = anonymous_bytes() - self.before
        self.peak -= self.before

    def _sample(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self.peak = max(self.peak, anonymous_bytes())


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def measure(config: RuntimeConfig) -> list[Row]:
    """Load on every rank at the same time; one row for each."""
    command = (sys.executable, "-m", "bench.loading", runtime_config.to_json(config))
    ranks = range(config.world_size)
    children = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE) for rank in ranks]
    try:
        return [json.loads(child.communicate(timeout=_AT_MOST_SECONDS)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()


def load_as(config: RuntimeConfig, world_rank: int) -> Row:
    """Load one rank's part in this process."""
    checkpoint = open_checkpoint(config.model_dir)
    group, rank = divmod(world_rank, config.tensor_parallel_size)
    mesh = Mesh(
        Member(world_rank, config.world_size),
        Member(rank, config.tensor_parallel_size),
        group,
        config.data_parallel_size,
    )
    began = time.perf_counter()
    with Peak() as peak:
        loaded = load(config, checkpoint, mesh)
        seconds = time.perf_counter() - began
    return {
        "rank": world_rank,
        "seconds": round(seconds, 2),
        "weights_mib": _mib(peak.kept),
        "beside_them_mib": _mib(peak.peak - peak.kept),
        "largest_matrix_mib": _mib(largest_matrix(loaded, checkpoint)),
    }


def largest_matrix(loaded: Loaded, checkpoint: Checkpoint) -> int:
    """Bytes of the largest tensor of a rank's part, in the dtype that it computes in."""
    found = 0
    for name, stored in checkpoint.tensors.items():
        slices = loaded.shard.slices(name, stored.shape)
        shape = [len(range(*cut.indices(size))) for cut, size in zip(slices, stored.shape, strict=True)]
        found = max(found, math.prod(shape) * loaded.dtype.itemsize)
    return found


def _mib(count: int) -> float:
    return round(count / 2**20, 1)


def _rank(arguments: Sequence[str]) -> None:
    config, rank = arguments
    print(json.dumps(load_as(runtime_config.from_json(config), int(rank))))


if __name__ == "__main__":
    _rank(sys.argv[1:])
