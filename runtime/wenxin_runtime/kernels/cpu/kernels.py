"""The seam's implementation over the compiled kernels: it allocates results and passes addresses."""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wenxin_runtime.kernels.cpu.library import Weight
from wenxin_runtime.kernels.cpu.packing import Kind, Packed, holds_bfloat16, kind_for, pack
from wenxin_runtime.layers.attention import AttentionInput

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
"""The dtypes of activations and cache, by their number in csrc/kernels.h."""


class CpuKernels:
    """Implements `wenxin_runtime.kernels.Kernels` in float32 and bfloat16.

    A row's results depend on that row alone (and on its sequence's cache), bit for bit: not on the rows beside it.
    Regions run on as many threads as torch's own.
    """

    def __init__(self, library: ctypes.CDLL, *, int8: bool = False) -> None:
        """With `int8`, the weights of linear layers and experts are rounded to 8 bits when they are packed."""
        self._library = library
        self._int8 = int8
        library.wx_threads(torch.get_num_threads())

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """See `Kernels.linear`."""
        return CpuLinear(self._library, PackedWeights(self._library, [weight], [bias], int8=self._int8))

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`."""
        x = x.contiguous()
        out = torch.empty_like(x)
        rows, hidden = x.shape
        self._library.wx_norm(DTYPES[x.dtype], x.data_ptr(), None, weight.data_ptr(), out.data_ptr(), rows, hidden, eps)
        return out

    def add_rms_norm_(self, residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.add_rms_norm_`."""
        x = x.contiguous()
        out = torch.empty_like(x)
        rows, hidden = x.shape
        self._library.wx_norm(
            DTYPES[x.dtype], x.data_ptr(), residual.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, hidden, eps
        )
        return out

    def rotate_and_write_(self, qkv: Tensor, turns: Tensor, cache: Tensor, slots: Tensor, num_heads: int) -> None:
        """See `Kernels.rotate_and_write_`."""
        rows, heads, head_dim = qkv.shape
        self._library.wx_rotate_and_write(
            DTYPES[qkv.dtype], qkv.data_ptr(), turns.data_ptr(), cache.data_ptr(), slots.data_ptr(),
            rows, num_heads, (heads - num_heads) // 2, head_dim,
        )  # fmt: skip

    def attend(self, q: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """See `Kernels.attend`."""
        rows, heads, head_dim = q.shape
        tables = step.block_tables
        out = q.new_empty((rows, heads * head_dim))
        self._library.wx_attend(
            DTYPES[q.dtype], q.data_ptr(), q.stride(0), cache.data_ptr(), step.starts.data_ptr(),
            step.lengths.data_ptr(), tables.data_ptr(), tables.shape[0], tables.stride(0),
            cache.shape[1], heads, cache.shape[2] // 2, head_dim, out.data_ptr(),
        )  # fmt: skip
        return out

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """See `Kernels.silu_and_mul`."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty((rows, width))
        self._library.wx_silu_and_mul(DTYPES[gate_up.dtype], gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out

    def router(
        self, weight: Tensor, correction_bias: Tensor, top_k: int, norm_min: float
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """See `Kernels.router`."""
        packed = PackedWeights(self._library, [weight.float()], [None], int8=False)
        return CpuRouter(self._library, packed, correction_bias.float().flatten().contiguous(), top_k, norm_min)

    def experts(self, gate_up: Sequence[Tensor], down: Sequence[Tensor]) -> "CpuExperts":
        """See `Kernels.experts`."""
        nothing = [None] * len(down)
        widen = PackedWeights(self._library, gate_up, nothing, int8=self._int8)
        narrow = PackedWeights(self._library, down, nothing, int8=self._int8)
        return CpuExperts(self._library, widen, narrow)


class PackedWeights:
    """Matrices of one kind, as an array that the kernels take; it keeps their memory alive."""

    def __init__(
        self, library: ctypes.CDLL, weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, int8: bool
    ) -> None:
        self._library = library
        self._kind = kind_for(weights, int8=int8)
        self._packed = [self._pack(weight, self._kind) for weight in weights]
        self._biases = [None if bias is None else bias.float().contiguous() for bias in biases]
        self.array = (Weight * len(weights))(*map(_described, self._packed, self._biases))

    def __len__(self) -> int:
        """Count the matrices."""
        return len(self._packed)

    @property
    def out(self) -> int:
        """Outputs of one of them."""
        return self._packed[0].out

    def replace(self, index: int, weight: Tensor) -> None:
        """Put another matrix of the same shape in a place; no kernel may run meanwhile."""
        exact = self._kind != Kind.BFLOAT16 or holds_bfloat16(weight)
        self._packed[index] = self._pack(weight, self._kind if exact else Kind.FLOAT32)
        self.array[index] = _described(self._packed[index], self._biases[index])

    def _pack(self, weight: Tensor, kind: Kind) -> Packed:
        return pack(weight, kind, lambda memory: self._library.wx_large_pages(memory.data_ptr(), memory.nbytes))


class CpuLinear:
    """x @ weight.T + bias."""

    def __init__(self, library: ctypes.CDLL, weights: PackedWeights) -> None:
        self._function = library.wx_linear
        self._weights = weights
        self._array = weights.array
        self._out = weights.out

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, in] to [rows, out]."""
        if x.stride(1) != 1:
            x = x.contiguous()
        rows = x.shape[0]
        out = x.new_empty((rows, self._out))
        self._function(self._array, DTYPES[x.dtype], rows, x.data_ptr(), x.stride(0), out.data_ptr(), self._out)
        return out


class CpuRouter:
    """Softmax scores in float32, the best by corrected score, weighted by the uncorrected one."""

    def __init__(
        self, library: ctypes.CDLL, weights: PackedWeights, correction_bias: Tensor, top_k: int, norm_min: float
    ) -> None:
        self._function = library.wx_router
        self._weights = weights
        self._correction_bias = correction_bias
        self._top_k = top_k
        self._norm_min = norm_min

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Route x [rows, hidden]: the experts, int64 [rows, top_k], and their weights in x's dtype."""
        rows = x.shape[0]
        chosen = torch.empty((rows, self._top_k), dtype=torch.int64)
        shares = x.new_empty((rows, self._top_k))
        self._function(
            self._weights.array, self._correction_bias.data_ptr(), self._top_k, self._norm_min,
            DTYPES[x.dtype], rows, x.data_ptr(), x.stride(0), chosen.data_ptr(), shares.data_ptr(),
        )  # fmt: skip
        return chosen, shares


class CpuExperts:
    """The weighted sum of what the chosen experts say; an expert that is hit runs once."""

    def __init__(self, library: ctypes.CDLL, gate_up: PackedWeights, down: PackedWeights) -> None:
        self._function = library.wx_experts
        self._gate_up = gate_up
        self._down = down

    def __call__(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        out = torch.empty_like(x)
        self._function(
            self._gate_up.array, self._down.array, len(self._down), DTYPES[x.dtype], x.shape[0], x.data_ptr(),
            chosen.shape[1], chosen.data_ptr(), weights.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out

    def replace(self, slot: int, gate_up: Tensor, down: Tensor) -> None:
        """See `Experts.replace`."""
        self._gate_up.replace(slot, gate_up)
        self._down.replace(slot, down)


def _described(packed: Packed, bias: Tensor | None) -> Weight:
    return Weight(
        packed.out, packed.inputs, packed.panels.data_ptr(), _address(packed.scales), _address(bias), packed.kind
    )


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
