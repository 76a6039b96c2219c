"""silu(gate) * up, as one kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.language import LAUNCH, narrow, rounded

_COLUMNS_PER_PROGRAM = 1024


@triton.jit
def gated(gate: tl.tensor, up: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Return silu(gate) * up of float32 tiles, rounded to `dtype` where separate operators would round."""
    return narrow(rounded(gate * tl.sigmoid(gate), dtype) * up, dtype)


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """Compute `Kernels.silu_and_mul`; gate_up is dense."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, device=gate_up.device, dtype=gate_up.dtype)
    block = min(_COLUMNS_PER_PROGRAM, triton.next_power_of_2(width))
    silu_and_mul_kernel[(rows, triton.cdiv(width, block))](
        gate_up, out, width=width, block=block, num_warps=4, **LAUNCH
    )
    return out


@triton.jit
def silu_and_mul_kernel(gate_up: tl.tensor, out: tl.tensor, width: tl.constexpr, block: tl.constexpr) -> None:
    """Do one row's columns; grid (rows, column blocks)."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * block + tl.arange(0, block)
    gate = tl.load(gate_up + row * 2 * width + i, mask=i < width, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + i, mask=i < width, other=0.0).to(tl.float32)
    tl.store(out + row * width + i, gated(gate, up, out.dtype.element_ty), mask=i < width)
