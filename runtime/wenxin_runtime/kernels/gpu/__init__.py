"""Kernels for GPUs in portable Triton, NVIDIA and AMD from one source: no inline assembly, no vendor's intrinsics.

`device` says what tile sizes go by, `language` what all kernels share; then one module per noun. Nothing is tuned
while it runs: tile sizes come from small tables, so the first request of a pod is as fast as the second. No function
reads the device, so every step can be captured in a CUDA graph. TRITON_INTERPRET=1, set before this package is
imported, runs the same kernels on a CPU's tensors.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from wenxin_runtime.kernels.gpu.activation import silu_and_mul
from wenxin_runtime.kernels.gpu.attention import attend
from wenxin_runtime.kernels.gpu.experts import Experts
from wenxin_runtime.kernels.gpu.linear import Int8Linear
from wenxin_runtime.kernels.gpu.norm import add_rms_norm_, rms_norm
from wenxin_runtime.kernels.gpu.rotary import rotate_and_write_
from wenxin_runtime.kernels.gpu.router import Router
from wenxin_runtime.layers.attention import AttentionInput
from wenxin_runtime.layers.linear import PlainLinear


class GpuKernels:
    """Implements `wenxin_runtime.kernels.Kernels`; with `int8`, linear layers and experts keep a byte per weight."""

    def __init__(self, *, int8: bool = False) -> None:
        self._int8 = int8

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """See `Kernels.linear`."""
        return Int8Linear(weight, bias) if self._int8 else PlainLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`."""
        return rms_norm(x, weight, eps)

    def add_rms_norm_(self, residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.add_rms_norm_`."""
        return add_rms_norm_(residual, x, weight, eps)

    def rotate_and_write_(self, qkv: Tensor, turns: Tensor, cache: Tensor, slots: Tensor, num_heads: int) -> None:
        """See `Kernels.rotate_and_write_`."""
        rotate_and_write_(qkv, turns, cache, slots, num_heads)

    def attend(self, q: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """See `Kernels.attend`."""
        return attend(q, cache, step)

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """See `Kernels.silu_and_mul`."""
        return silu_and_mul(gate_up)

    def router(
        self, weight: Tensor, correction_bias: Tensor, top_k: int, norm_min: float
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """See `Kernels.router`."""
        return Router(weight, correction_bias, top_k, norm_min)

    def experts(self, gate_up: Sequence[Tensor], down: Sequence[Tensor]) -> Experts:
        """See `Kernels.experts`."""
        return Experts(gate_up, down, int8=self._int8)
