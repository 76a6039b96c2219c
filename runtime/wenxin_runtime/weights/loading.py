"""The checkpoint's tensors as torch tensors."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from wenxin_runtime.parallel.sharding import Shard
from wenxin_runtime.weights.checkpoint import Checkpoint
from wenxin_runtime.weights.names import EMBEDDING, HEAD

Progress = Callable[[int, int], None]


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
        if self._progress is not None and name not in self._seen:
            self._seen.add(name)  # a tied embedding is asked for twice
            self._done += stored.end - stored.start
            self._progress(self._done, self._checkpoint.bytes)
        return tensor
