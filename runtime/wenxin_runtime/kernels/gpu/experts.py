"""The experts of a layer as two grouped products and one sum.

The first product takes each row to its experts and ends with silu(gate) * up; the second goes back to the hidden size;
the sum weighs a row's experts in the order in which they were chosen, so that equal inputs give equal bits.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.activation import gated
from wenxin_runtime.kernels.gpu.alignment import Alignment, align, most_blocks
from wenxin_runtime.kernels.gpu.device import card
from wenxin_runtime.kernels.gpu.language import LAUNCH, narrow, rounded
from wenxin_runtime.kernels.gpu.product import Tiles, multiply, quantize, tiles_for

# Blocks of pairs that walk through the weights together, so that an expert's weights are read once into the L2 cache.
_BLOCKS_TOGETHER = 8
_COLUMNS_PER_SUM = 512


class Experts:
    """Implements `Kernels.experts`, with weights as they are or in int8."""

    def __init__(self, gate_up: Sequence[Tensor], down: Sequence[Tensor], *, int8: bool = False) -> None:
        self._gate_up, self._gate_up_scales = _stack(gate_up, int8=int8)
        self._down, self._down_scales = _stack(down, int8=int8)

    def __call__(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Mix dense x [rows, hidden] by chosen and weights [rows, top_k]."""
        (rows, hidden), top_k = x.shape, chosen.shape[1]
        experts, width = self._down.shape[0], self._down.shape[2]
        pairs = chosen.numel()
        tiles = tiles_for(pairs / experts, x.dtype.itemsize, card(x.device))
        aligned = align(chosen, experts, tiles.rows)
        inner = torch.empty(pairs, width, device=x.device, dtype=x.dtype)
        self._product(x, self._gate_up, self._gate_up_scales, aligned, inner, tiles, top_k, gate=True)
        outer = torch.empty(pairs, hidden, device=x.device, dtype=x.dtype)
        self._product(inner, self._down, self._down_scales, aligned, outer, tiles, 1, gate=False)
        out = torch.empty_like(x)
        block = min(_COLUMNS_PER_SUM, triton.next_power_of_2(hidden))
        sum_kernel[(rows, triton.cdiv(hidden, block))](
            outer, chosen, weights, out, experts, hidden=hidden, top_k=top_k, block=block, num_warps=4, **LAUNCH
        )
        return out

    def replace(self, slot: int, gate_up: Tensor, down: Tensor) -> None:
        """See `kernels.Experts.replace`; the addresses that a CUDA graph has captured stay."""
        _put(slot, gate_up, self._gate_up, self._gate_up_scales)
        _put(slot, down, self._down, self._down_scales)

    def _product(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        aligned: Alignment,
        out: Tensor,
        tiles: Tiles,
        top_k: int,
        *,
        gate: bool,
    ) -> None:
        pairs, width = out.shape
        block_n = tiles.columns // 2 if gate else tiles.columns  # a gate and its value are two columns of the weight
        blocks = most_blocks(pairs, weight.shape[0], tiles.rows)
        grouped_kernel[(blocks * triton.cdiv(width, block_n),)](
            x, weight, scales, *aligned, out, pairs,
            width=width, depth=weight.shape[2], top_k=top_k, gate=gate, int8=weight.dtype == torch.int8,
            block_m=tiles.rows, block_n=block_n, block_k=tiles.depth, together=_BLOCKS_TOGETHER,
            num_warps=tiles.warps, num_stages=tiles.stages, **LAUNCH,
        )  # fmt: skip


def _stack(weights: Sequence[Tensor], *, int8: bool) -> tuple[Tensor, Tensor]:
    """Put the experts' weights [out, in] behind each other, one at a time, so that little is held twice."""
    first = weights[0]
    stacked = torch.empty(len(weights), *first.shape, device=first.device, dtype=torch.int8 if int8 else first.dtype)
    scales = torch.empty(len(weights), first.shape[0], device=first.device) if int8 else stacked.new_empty(0)
    for i, weight in enumerate(weights):
        _put(i, weight, stacked, scales)
    return stacked, scales


def _put(place: int, weight: Tensor, stacked: Tensor, scales: Tensor) -> None:
    if stacked.dtype == torch.int8:
        stacked[place], scales[place] = quantize(weight.to(stacked.device))
    else:
        stacked[place] = weight


@triton.jit(do_not_specialize=["total"], do_not_specialize_on_alignment=["pairs", "owners", "used"])
def grouped_kernel(
    x: tl.tensor, weight: tl.tensor, scales: tl.tensor, pairs: tl.tensor, owners: tl.tensor, used: tl.tensor,
    out: tl.tensor, total: tl.tensor, width: tl.constexpr, depth: tl.constexpr, top_k: tl.constexpr, gate: tl.constexpr,
    int8: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, together: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply one block of pairs with block_n columns of its expert; grid (most blocks * column blocks,).

    Pair p reads row p // top_k of x [any, depth] and writes row p of out [pairs, width].
    The weight is [experts, width, depth]; where `gate`, [experts, 2 * width, depth] with the gates first.
    """
    columns: tl.constexpr = (width + block_n - 1) // block_n
    blocks = tl.load(used)
    lead = tl.program_id(0) // (together * columns) * together
    if lead >= blocks:
        return
    walkers = tl.minimum(blocks - lead, together)
    step = tl.program_id(0) % (together * columns)
    column = step // walkers
    if column >= columns:
        return
    block = lead + step % walkers
    expert = tl.load(owners + block).to(tl.int64)
    pair = tl.load(pairs + block * block_m + tl.arange(0, block_m)).to(tl.int64)
    real = pair < total
    n = column * block_n + tl.arange(0, block_n)
    dtype: tl.constexpr = out.dtype.element_ty
    line = expert * (2 * width if gate else width) + n
    left, right = multiply(
        x, pair // top_k, real, weight, line, n < width, width, gate, depth, block_m, block_n, block_k
    )
    if int8:
        left *= tl.load(scales + line, mask=n < width, other=0.0)[None, :]
        if gate:
            right *= tl.load(scales + line + width, mask=n < width, other=0.0)[None, :]
    result = gated(rounded(left, dtype), rounded(right, dtype), dtype) if gate else narrow(left, dtype)
    tl.store(out + pair[:, None] * width + n[None, :], result, mask=real[:, None] & (n < width)[None, :])


@triton.jit
def sum_kernel(
    parts: tl.tensor, chosen: tl.tensor, weights: tl.tensor, out: tl.tensor, experts: tl.tensor,
    hidden: tl.constexpr, top_k: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    """Sum what a row's experts said by weight, but for those that are elsewhere; grid (rows, column blocks)."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for choice in tl.static_range(top_k):
        pair = row * top_k + choice
        share = tl.load(weights + pair).to(tl.float32)
        expert = tl.load(chosen + pair)
        end = tl.where((expert >= 0) & (expert < experts), hidden, 0)
        total += share * tl.load(parts + pair * hidden + i, mask=i < end, other=0.0).to(tl.float32)
    tl.store(out + row * hidden + i, narrow(total, out.dtype.element_ty), mask=i < hidden)
