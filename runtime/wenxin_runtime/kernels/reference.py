"""The kernels in plain torch: what every other implementation is tested against, and the fallback for all of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wenxin_runtime.layers.attention import AttentionInput, attend, write_kv
from wenxin_runtime.layers.linear import linear
from wenxin_runtime.layers.moe import Experts, Router
from wenxin_runtime.layers.norm import rms_norm
from wenxin_runtime.layers.rotary import rotate_


class ReferenceKernels:
    """Implements `wenxin_runtime.kernels.Kernels` on any device."""

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """See `Kernels.linear`."""
        return linear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`."""
        return rms_norm(x, weight, eps)

    def add_rms_norm_(self, residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.add_rms_norm_`."""
        return rms_norm(residual.add_(x), weight, eps)

    def rotate_and_write_(self, qkv: Tensor, turns: Tensor, cache: Tensor, slots: Tensor, num_heads: int) -> None:
        """See `Kernels.rotate_and_write_`."""
        kv_heads = (qkv.shape[1] - num_heads) // 2
        rotate_(qkv[:, : num_heads + kv_heads], turns)
        write_kv(cache, slots, qkv[:, num_heads:])

    def attend(self, q: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """See `Kernels.attend`."""
        return attend(q, cache, step)

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """See `Kernels.silu_and_mul`."""
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    def router(
        self, weight: Tensor, correction_bias: Tensor, top_k: int, norm_min: float
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """See `Kernels.router`."""
        return Router(weight, correction_bias, top_k, norm_min)

    def experts(self, gate_up: Sequence[Tensor], down: Sequence[Tensor]) -> Experts:
        """See `Kernels.experts`."""
        return Experts(gate_up, down, self._expert)

    def _expert(self, gate_up: Tensor, down: Tensor) -> Callable[[Tensor], Tensor]:
        widen, narrow = linear(gate_up), linear(down)
        return lambda x: narrow(self.silu_and_mul(widen(x)))
