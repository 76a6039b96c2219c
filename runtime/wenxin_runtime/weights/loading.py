"""The checkpoint's tensors as torch tensors: mapped from the files, so that only what is kept is ever copied."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from wenxin_runtime.weights.checkpoint import Checkpoint

Progress = Callable[[int, int], None]


class TensorSource(Protocol):
    """Where a model takes its tensors from, by checkpoint name."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self, name: str) -> Tensor:
        """Give a tensor on `device` in `dtype`."""

    def stored(self, name: str) -> Tensor:
        """Give a tensor on `device` in the dtype of the file."""


class CheckpointSource:
    """Reads tensors from a checkpoint and reports bytes done and total.

    On a CPU a tensor in the stored dtype is a view of the mapped file: its pages are read when touched and belong to
    the page cache, so an embedding of which few rows are used costs little memory.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, progress: Progress | None = None
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._checkpoint = checkpoint
        self._progress = progress
        self._read: set[str] = set()
        self._done = 0
        self._files: dict[str, Any] = {}

    def __call__(self, name: str) -> Tensor:
        """Give a tensor on `device` in `dtype`.

        Raises:
            KeyError: the model asks for a name that `expected_shapes` does not have: a bug in one of the two.
        """
        return self.stored(name).to(self.dtype)

    def stored(self, name: str) -> Tensor:
        """Give a tensor on `device` in the dtype of the file."""
        stored = self._checkpoint.tensors[name]
        file = str(stored.file)
        if file not in self._files:
            self._files[file] = safe_open(file, framework="pt")
        mapped: Tensor = self._files[file].get_tensor(name)
        tensor = mapped.to(self.device)
        if self._progress is not None and name not in self._read:
            self._read.add(name)  # a tied embedding is asked for twice
            self._done += stored.end - stored.start
            self._progress(self._done, self._checkpoint.bytes)
        return tensor
