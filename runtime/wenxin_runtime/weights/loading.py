"""The checkpoint's tensors as torch tensors: mapped from the files, so that only what is kept is ever copied."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from wenxin_runtime.weights.checkpoint import Checkpoint

Progress = Callable[[int, int], None]


class TensorSource(Protocol):
    """Where a model takes its tensors from, by checkpoint name: in the dtype and on the device that it runs in."""

    def __call__(self, name: str) -> Tensor:
        """Give one tensor; each is asked for once."""


class CheckpointSource:
    """Reads tensors from a checkpoint, converts them to one device and dtype, and reports bytes done and total.

    On a CPU in the stored dtype a tensor is a view of the mapped file: its pages are read when touched and belong to
    the page cache, so an embedding of which few rows are used costs little memory.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, progress: Progress | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._dtype = dtype
        self._progress = progress
        self._done = 0
        self._files: dict[str, Any] = {}

    def __call__(self, name: str) -> Tensor:
        """Give one tensor.

        Raises:
            KeyError: the model asks for a name that `expected_shapes` does not have: a bug in one of the two.
        """
        stored = self._checkpoint.tensors[name]
        file = str(stored.file)
        if file not in self._files:
            self._files[file] = safe_open(file, framework="pt")
        mapped: Tensor = self._files[file].get_tensor(name)
        tensor = mapped.to(self._device, self._dtype)
        self._done += stored.end - stored.start
        if self._progress is not None:
            self._progress(self._done, self._checkpoint.bytes)
        return tensor
