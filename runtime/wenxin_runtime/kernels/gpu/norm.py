"""RMSNorm, alone and with the residual's addition: one pass over the row, statistics in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.language import LAUNCH, narrow, rounded


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute `Kernels.rms_norm`; x is dense."""
    out = torch.empty_like(x)
    _launch(x, x, weight, out, eps, add=False)
    return out


def add_rms_norm_(residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute `Kernels.add_rms_norm_`; both are dense."""
    out = torch.empty_like(x)
    _launch(residual, x, weight, out, eps, add=True)
    return out


def _launch(residual: Tensor, x: Tensor, weight: Tensor, out: Tensor, eps: float, *, add: bool) -> None:
    rows, hidden = x.shape
    block = triton.next_power_of_2(hidden)
    warps = min(max(block // 256, 1), 16)  # 8 elements per thread
    norm_kernel[(rows,)](residual, x, weight, out, eps, hidden=hidden, block=block, add=add, num_warps=warps, **LAUNCH)


@triton.jit
def norm_kernel(
    residual: tl.tensor, x: tl.tensor, weight: tl.tensor, out: tl.tensor, eps: tl.tensor,
    hidden: tl.constexpr, block: tl.constexpr, add: tl.constexpr,
) -> None:  # fmt: skip
    """Normalise one row; grid (rows,)."""
    start = tl.program_id(0).to(tl.int64) * hidden
    i = tl.arange(0, block)
    there = i < hidden
    dtype: tl.constexpr = out.dtype.element_ty
    value = tl.load(x + start + i, mask=there, other=0.0).to(tl.float32)
    if add:
        value = rounded(value + tl.load(residual + start + i, mask=there, other=0.0).to(tl.float32), dtype)
        tl.store(residual + start + i, narrow(value, dtype), mask=there)
    scale = tl.rsqrt(tl.sum(value * value, 0) / hidden + eps)
    weights = tl.load(weight + i, mask=there, other=0.0).to(tl.float32)
    tl.store(out + start + i, narrow(rounded(value * scale, dtype) * weights, dtype), mask=there)
