"""The arithmetic that a model is made of, behind one seam.

A model file says what is computed; a `Kernels` says how, on one kind of device: `reference` in plain torch anywhere.
Every other implementation is tested against it.
"""

import os
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.kernels.cpu import cpu_kernels
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.layers.attention import AttentionInput

Linear = Callable[[Tensor], Tensor]
"""x [rows, in] to [rows, out]."""
Route = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x [rows, hidden] to the experts, int64 [rows, top_k], and their weights in x's dtype, [rows, top_k]."""


class Experts(Protocol):
    """Some experts of a layer, in numbered slots."""

    def __call__(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Mix x [rows, hidden] by `chosen`, slots, and `weights`, otherwise as a `Route` gives them."""

    def replace(self, slot: int, gate_up: Tensor, down: Tensor) -> None:
        """Put another expert into a slot; its weights, on any device, may be dropped afterwards."""


class Kernels(Protocol):
    """One implementation. A trailing underscore means that an argument is changed in place."""

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Prepare x @ weight.T + bias once; weight [out, in] and bias [out] may be dropped afterwards."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return x / rms(x) * weight over the last axis of x [rows, hidden], statistics in float32."""

    def add_rms_norm_(self, residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Add x to `residual`, both [rows, hidden], and return the sum's `rms_norm`."""

    def rotate_and_write_(self, qkv: Tensor, turns: Tensor, cache: Tensor, slots: Tensor, num_heads: int) -> None:
        """Turn queries and keys by their position, then put keys and values into the cache.

        Args:
            qkv: [rows, num_heads + 2 * kv_heads, head_dim]; pairs (2i, 2i + 1) of queries and keys are turned in place.
            turns: cos and sin of each pair's angle, float32 [rows, head_dim / 2, 2].
            cache: One layer's, [blocks, block_size, 2 * kv_heads, head_dim].
            slots: int64 [rows], block * block_size + offset.
            num_heads: Query heads.
        """

    def attend(self, q: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """Let each row of q [rows, heads, head_dim] see its sequence up to itself; gives [rows, heads * head_dim]."""

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up [rows, width] of gate_up [rows, 2 * width], the gate first."""

    def router(self, weight: Tensor, correction_bias: Tensor, top_k: int, norm_min: float) -> Route:
        """Prepare the choice of experts, in float32 throughout; weight [experts, hidden], bias [1, experts]."""

    def experts(self, gate_up: Sequence[Tensor], down: Sequence[Tensor]) -> Experts:
        """Prepare the experts; each has gate_up [2 * width, hidden] and down [hidden, width].

        They get slots in this order. An index outside them is an expert that another rank computes: it adds nothing.
        """


def choose(device: torch.device, dtype: torch.dtype, quantization: str = "none") -> Kernels:
    """Take the fastest implementation for a device and dtype; WENXIN_KERNELS=reference overrides it.

    Raises:
        ConfigError: nothing here computes with weights of this quantization.
    """
    wanted = os.environ.get("WENXIN_KERNELS", "")
    if wanted not in {"", "reference"}:
        raise ValueError(f"WENXIN_KERNELS={wanted!r}: only 'reference' can be asked for")
    found = None if wanted else _compiled(device, dtype, int8=quantization == "int8")
    if found is None and quantization != "none":
        raise ConfigError(
            f"--quantization {quantization} needs compiled kernels, which there are none of for {dtype} on "
            f"{device.type} here; the log says why; use --dtype float32 or bfloat16, or --quantization none"
        )
    return found or ReferenceKernels()


def _compiled(device: torch.device, dtype: torch.dtype, *, int8: bool) -> Kernels | None:
    if device.type == "cpu":
        return cpu_kernels(dtype, int8=int8)
    if device.type == "cuda":  # AMD's cards too
        from wenxin_runtime.kernels.gpu import GpuKernels  # noqa: PLC0415 - Triton, which a CPU's torch comes without

        return GpuKernels(int8=int8)
    return None
