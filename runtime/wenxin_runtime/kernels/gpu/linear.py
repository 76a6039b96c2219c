"""Linear layers with int8 weights; weights as they are go to the vendor's library (`layers.linear.PlainLinear`)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.device import Card, card
from wenxin_runtime.kernels.gpu.language import LAUNCH, narrow
from wenxin_runtime.kernels.gpu.product import Tiles, multiply, quantize, tiles_for


class Int8Linear:
    """x @ weight.T + bias, one signed byte per weight and one scale per output: at few rows, half the bytes to read."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight, self._scales = quantize(weight)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Map dense x [rows, in] to [rows, out]."""
        rows, (width, depth) = x.shape[0], self._weight.shape
        out = torch.empty(rows, width, device=x.device, dtype=x.dtype)
        tiles = int8_tiles(rows, width, x.dtype.itemsize, card(x.device))
        linear_kernel[(triton.cdiv(rows, tiles.rows) * triton.cdiv(width, tiles.columns),)](
            x, self._weight, self._scales, self._scales if self._bias is None else self._bias, out, rows,
            width=width, depth=depth, biased=self._bias is not None,
            block_m=tiles.rows, block_n=tiles.columns, block_k=tiles.depth,
            num_warps=tiles.warps, num_stages=tiles.stages, **LAUNCH,
        )  # fmt: skip
        return out


def int8_tiles(rows: int, width: int, element_bytes: int, on: Card) -> Tiles:
    """Choose tiles: narrow ones while the rows are few, until there is a program for every multiprocessor."""
    found = tiles_for(rows, element_bytes, on)
    columns = found.columns
    while found.rows == 16 and columns > 16 and width < columns * on.multiprocessors:
        columns //= 2
    return Tiles(found.rows, columns, found.depth, found.warps, found.stages)


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x: tl.tensor, weight: tl.tensor, scales: tl.tensor, bias: tl.tensor, out: tl.tensor, rows: tl.tensor,
    width: tl.constexpr, depth: tl.constexpr, biased: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
) -> None:  # fmt: skip
    """Compute one tile; grid (row blocks * column blocks,), the row blocks of a weight's columns side by side."""
    row_blocks = tl.cdiv(rows, block_m)
    m = (tl.program_id(0) % row_blocks * block_m + tl.arange(0, block_m)).to(tl.int64)
    n = tl.program_id(0) // row_blocks * block_n + tl.arange(0, block_n)
    total, _ = multiply(x, m, m < rows, weight, n.to(tl.int64), n < width, 0, False, depth, block_m, block_n, block_k)
    total *= tl.load(scales + n, mask=n < width, other=0.0)[None, :]
    if biased:
        total += tl.load(bias + n, mask=n < width, other=0.0).to(tl.float32)[None, :]
    there = (m < rows)[:, None] & (n < width)[None, :]
    tl.store(out + m[:, None] * width + n[None, :], narrow(total, out.dtype.element_ty), mask=there)
