"""The tile product that int8 linear layers and experts share: rows of x times rows of a weight, int8 or not.

A weight-only int8 weight is one signed byte per element and one float32 scale per output: the bytes are widened in
registers, which is exact, and the scale is applied to the finished sum.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.device import Card
from wenxin_runtime.kernels.gpu.language import dot, widen


@dataclass(frozen=True, slots=True)
class Tiles:
    """A program's share: rows of x, rows of the weight, depth per step; warps, pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# By the rows of x that meet one weight: few rows want many bytes in flight, many rows want large squares.
_TABLE = (
    (12, Tiles(16, 64, 128, warps=4, stages=4)),
    (24, Tiles(32, 128, 64, warps=4, stages=4)),
    (64, Tiles(64, 128, 64, warps=4, stages=3)),
)
_MANY = Tiles(128, 128, 64, warps=8, stages=3)
# Float32 is multiplied without matrix units: larger tiles would not fit the registers.
_FLOAT32 = ((12, Tiles(16, 64, 32, warps=4, stages=2)), (math.inf, Tiles(32, 64, 32, warps=4, stages=2)))


def tiles_for(rows: float, element_bytes: int, on: Card) -> Tiles:
    """Choose tiles.

    Args:
        rows: Rows of x that meet one weight, on average.
        element_bytes: Of x.
        on: The card; one with little shared memory gets fewer stages.
    """
    if element_bytes > 2:
        return next(tiles for most, tiles in _FLOAT32 if rows <= most)
    found = next((tiles for most, tiles in _TABLE if rows <= most), _MANY if on.roomy else _TABLE[-1][1])
    return found if on.roomy else dataclasses.replace(found, stages=2)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to int8, one scale per output: the largest magnitude becomes 127.

    Args:
        weight: [..., out, in], any float dtype.

    Returns:
        int8 of the same shape, and float32 scales [..., out].
    """
    wide = weight.float()
    scales = wide.abs().amax(dim=-1).clamp_(min=torch.finfo(torch.float32).tiny) / 127
    return (wide / scales[..., None]).round_().clamp_(-127, 127).to(torch.int8), scales


@triton.jit
def multiply(
    x: tl.tensor, x_rows: tl.tensor, x_real: tl.tensor, weight: tl.tensor, weight_rows: tl.tensor,
    weight_real: tl.tensor, second: tl.constexpr, two: tl.constexpr, depth: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return x[x_rows] @ weight[weight_rows].T in float32, [block_m, block_n], for one weight or for two in one pass.

    Both have rows of `depth` elements; weight is of x's dtype or int8. x_rows [block_m] and weight_rows [block_n],
    int64, are read where x_real and weight_real. Where there are `two`, the other weight lies `second` rows behind the
    first; else the other result is 0.
    """
    total = tl.zeros((block_m, block_n), tl.float32)
    other = tl.zeros((block_m, block_n), tl.float32)
    i = tl.arange(0, block_k)
    x_at = x + x_rows[:, None] * depth + i[None, :]
    weight_at = weight + weight_rows[None, :] * depth + i[:, None]
    for start in range(0, depth, block_k):
        inside = i < depth - start
        x_there = x_real[:, None] if depth % block_k == 0 else x_real[:, None] & inside[None, :]
        weight_there = weight_real[None, :] if depth % block_k == 0 else weight_real[None, :] & inside[:, None]
        left = tl.load(x_at, mask=x_there, other=0.0)
        total = dot(left, widen(tl.load(weight_at, mask=weight_there, other=0), left.dtype), total)
        if two:
            right = tl.load(weight_at + second * depth, mask=weight_there, other=0)
            other = dot(left, widen(right, left.dtype), other)
        x_at += block_k
        weight_at += block_k
    return total, other
