"""The checkpoint's tensors as torch tensors."""

import os
from collections.abc import Callable
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from wenxin_runtime.engine.machine import return_freed_memory
from wenxin_runtime.parallel.sharding import Shard
from wenxin_runtime.weights.checkpoint import Checkpoint
from wenxin_runtime.weights.names import EMBEDDING, HEAD
from wenxin_runtime.weights.safetensors import DTYPES

Progress = Callable[[int, int], None]

_TRIM_EVERY_BYTES = 2**26


class TensorSource(Protocol):
    """Where a model takes its tensors from, by checkpoint name: this rank's part of each."""

    device: torch.device
    dtype: torch.dtype
    shard: Shard

    def __call__(self, name: str) -> Tensor:
        """Give a tensor on `device` in `dtype`."""

    def stored(self, name: str) -> Tensor:
        """Give a tensor on `device` in the dtype of the file."""

    @property
    def shares_table(self) -> bool:
        """Whether the embedding's rows are the head's too."""

    def head(self) -> Tensor:
        """Give the head's weight, from the embedding where they are tied, on `device` in `dtype`."""


class CheckpointSource:
    """Reads one rank's part of a checkpoint, no other byte of it, and reports bytes done and total.

    Files are mapped for reading, but every tensor given out is a copy: a mapped one would take the process down when
    its file is replaced or the volume goes away.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.shard = shard or Shard(checkpoint.config)
        self._checkpoint = checkpoint
        self._progress = progress
        self._seen: set[str] = set()
        self._done = 0
        self._untrimmed = 0
        self._files: dict[str, Any] = {}

    def __call__(self, name: str) -> Tensor:
        """Give a tensor on `device` in `dtype`.

        Raises:
            KeyError: the model asks for a name that `expected_shapes` does not have: a bug in one of the two.
        """
        return self._read(name, self.dtype)

    def stored(self, name: str) -> Tensor:
        """Give a tensor on `device` in the dtype of the file."""
        return self._read(name, None)

    @property
    def shares_table(self) -> bool:
        """See `TensorSource.shares_table`."""
        return self._checkpoint.config.tie_word_embeddings and self.shard.head == self.shard.vocabulary

    def head(self) -> Tensor:
        """See `TensorSource.head`."""
        return self._read(EMBEDDING if self._checkpoint.config.tie_word_embeddings else HEAD, self.dtype, cut_as=HEAD)

    def _read(self, name: str, dtype: torch.dtype | None, cut_as: str | None = None) -> Tensor:
        stored = self._checkpoint.tensors[name]
        file = str(stored.file)
        if file not in self._files:
            self._files[file] = safe_open(file, framework="pt")
        mapped: Tensor = self._files[file].get_slice(name)[self.shard.slices(cut_as or name, stored.shape)]
        tensor = mapped.to(self.device, dtype or mapped.dtype, copy=True)
        self._trim(tensor)
        if self._progress is not None and name not in self._seen:
            self._seen.add(name)  # a tied embedding is asked for twice
            self._done += stored.end - stored.start
            self._progress(self._done, self._checkpoint.bytes)
        return tensor

    def _trim(self, given: Tensor) -> None:
        """Once in a while give back the memory of what was read and is packed by now.

        malloc keeps it, and hardly finds a use for it: torch asks for aligned memory, which glibc does not look for
        among what was freed. A model would take its size again while it loads.
        """
        self._untrimmed += given.nbytes if self.device.type == "cpu" else 0
        if self._untrimmed > _TRIM_EVERY_BYTES:
            self._untrimmed = 0
            return_freed_memory()


class Rereading:
    """Reads whole tensors of a checkpoint into host memory, long after the model was loaded from it.

    Nothing is mapped: a file that is gone by now, or a volume, is an error to be told and not the end of the process.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        """Remember which files they are."""
        self._dtype = dtype
        self._tensors = checkpoint.tensors
        self._known = {file: _identity(file.stat()) for file in {tensor.file for tensor in self._tensors.values()}}

    def __call__(self, name: str) -> Tensor:
        """Give a tensor in `dtype`.

        Raises:
            OSError: it cannot be read, or its file is not the one that was loaded.
        """
        stored = self._tensors[name]
        content = bytearray(stored.end - stored.start)
        with stored.file.open("rb") as file:
            if _identity(os.fstat(file.fileno())) != self._known[stored.file]:
                raise OSError(f"{stored.file} has changed since the model was loaded")
            file.seek(stored.start)
            if file.readinto(content) != len(content):
                raise OSError(f"{stored.file} ends within {name}")
        tensor = torch.frombuffer(content, dtype=getattr(torch, DTYPES[stored.dtype][0]))
        return tensor.view(stored.shape).to(self._dtype)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
