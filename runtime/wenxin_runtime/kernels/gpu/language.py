"""What all kernels share: how they are launched, the matrix product, and the ways between dtypes."""

import triton
import triton.language as tl

from wenxin_runtime.kernels.gpu.device import INTERPRETED

_INTERPRETED = tl.constexpr(INTERPRETED)

LAUNCH = {"enable_fp_fusion": True}
"""Compiler options of every launch: a multiplication and an addition may become one instruction, as in cuBLAS."""


@triton.jit
def dot(a: tl.tensor, b: tl.tensor, total: tl.tensor) -> tl.tensor:
    """Return total + a @ b in float32; a and b have one dtype, and float32 is not cut to TF32.

    The interpreter keeps bfloat16 as bits and multiplies those, so there both are widened first, which is exact.
    """
    if _INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def widen(x: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Return x, int8 or of `dtype` already, in `dtype`; the interpreter knows no way from int8 to bfloat16 but this."""
    if _INTERPRETED:
        return x.to(tl.float32).to(dtype)
    return x.to(dtype)


@triton.jit
def narrow(x: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Return float32 x in `dtype`, rounded to nearest, ties to even.

    The interpreter cuts what bfloat16 has no room for; there the rounding is added to the bits first.
    """
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        up = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16 << 16
        x = tl.where(x == x, up, bits).to(tl.float32, bitcast=True)  # noqa: PLR0124 - NaN stays as it is
    return x.to(dtype)


@triton.jit
def rounded(x: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Return float32 x after a round trip through `dtype`: what a separate kernel would have stored."""
    return narrow(x, dtype).to(tl.float32)
