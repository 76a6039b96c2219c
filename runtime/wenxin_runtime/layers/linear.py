"""Linear layers in plain torch: the reference, and what a CPU falls back on where kernels/cpu cannot be had.

`F.linear` hands a row-major weight to a GEMM that packs it anew on every call. oneDNN keeps a packed weight (what
Inductor's freezing emits), reads it 1.3 times faster at one row and computes 2 to 3 times faster at 16; our own kernels
read it half as fast again.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor], Tensor]

# Rows that the packed layout is chosen for. One layout serves all sizes of batch: it was measured at 1 to 512 rows.
_PACKED_FOR_ROWS = 128


def linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """Make the fastest x @ weight.T + bias that torch has here.

    Args:
        weight: [out, in], on the device and in the dtype that x will have. It may be dropped afterwards.
        bias: [out].
    """
    if weight.device.type == "cpu" and weight.dtype in _packable_dtypes():
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


class PlainLinear:
    """The reference."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight.contiguous()
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, in] to [rows, out]."""
        return F.linear(x, self._weight, self._bias)


class PackedLinear:
    """The same with a weight in oneDNN's own layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_FOR_ROWS)  # noqa: SLF001 - what Inductor emits
        self._bias = bias
        self._apply = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001 - same

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, in] to [rows, out]."""
        out: Tensor = self._apply(x, self._weight, self._bias, "none", [], "")
        return out


@functools.cache
def _packable_dtypes() -> tuple[torch.dtype, ...]:
    """The operators are private to torch, so they are tried once: in another build or release they may be gone."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not _has_bfloat16_units():
            continue  # oneDNN would emulate it, slower than F.linear
        weight = torch.eye(16, dtype=dtype)
        try:
            same = PackedLinear(weight)(weight)
        except (AttributeError, RuntimeError, NotImplementedError):
            continue
        if torch.equal(same, weight):
            found.append(dtype)
    return tuple(found)


def _has_bfloat16_units() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())
