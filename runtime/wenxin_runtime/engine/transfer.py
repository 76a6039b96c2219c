"""Numbers to the device and back, without waiting for what the device is doing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: Sequence[Any] | NDArray[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy host numbers to `device`, in order with what runs there.

    On a GPU they go through pinned memory, which torch keeps until the copy is done: nothing waits.
    """
    if device.type == "cpu":
        return torch.as_tensor(np.asarray(values), dtype=dtype)
    host = torch.tensor(np.asarray(values), dtype=dtype, pin_memory=True)
    return host.to(device, non_blocking=True)


class Readback:
    """Tensors on their way to the host."""

    def __init__(self, *tensors: Tensor) -> None:
        self._host = tensors
        self._done: torch.cuda.Event | None = None
        if tensors and tensors[0].is_cuda:
            self._host = tuple(
                torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in tensors
            )
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def get(self) -> tuple[Tensor, ...]:
        """Wait until they have arrived."""
        if self._done is not None:
            self._done.synchronize()
        return self._host
