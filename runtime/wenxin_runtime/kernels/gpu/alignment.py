"""Pairs of a row and an expert, put together by expert in whole blocks, so that a block meets one expert's weights.

All of it happens on the device, in a fixed order and without atomics: equal inputs give equal layouts.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.language import LAUNCH

_PAIRS_PER_STEP = 256


class Alignment(NamedTuple):
    """Blocks of pairs.

    Attributes:
        pairs: Pair (row * top_k + choice) in each place, the number of pairs where a block is filled up;
            int32 [most blocks * block_m].
        owners: Each block's expert, int32 [most blocks].
        used: How many blocks there are, int32 [1]; what lies behind is not written.
    """

    pairs: Tensor
    owners: Tensor
    used: Tensor


def align(chosen: Tensor, experts: int, block_m: int) -> Alignment:
    """Group the pairs of chosen [rows, top_k], int64, in blocks of block_m."""
    pairs = chosen.numel()
    most = most_blocks(pairs, experts, block_m)
    numbers = torch.empty(most * (block_m + 1) + 1, device=chosen.device, dtype=torch.int32)
    found = Alignment(numbers[: most * block_m], numbers[most * block_m : -1], numbers[-1:])
    align_kernel[(experts,)](
        chosen, *found, pairs,
        block_e=triton.next_power_of_2(experts), block_m=block_m, block_p=_PAIRS_PER_STEP, num_warps=4, **LAUNCH,
    )  # fmt: skip
    return found


def most_blocks(pairs: int, experts: int, block_m: int) -> int:
    """Bound the blocks: every expert that is hit may have one that is not full."""
    return min(pairs, pairs // block_m + min(experts, pairs))


@triton.jit(do_not_specialize=["total"], do_not_specialize_on_alignment=["pairs", "owners", "used"])
def align_kernel(
    chosen: tl.tensor, pairs: tl.tensor, owners: tl.tensor, used: tl.tensor, total: tl.tensor,
    block_e: tl.constexpr, block_m: tl.constexpr, block_p: tl.constexpr,
) -> None:  # fmt: skip
    """Lay out one expert's blocks; grid (experts,). Each program counts all pairs, which costs less than a launch."""
    expert = tl.program_id(0)
    e = tl.arange(0, block_e)
    i = tl.arange(0, block_p)
    counts = tl.zeros((block_e,), tl.int32)
    for start in range(0, total, block_p):
        choice = tl.load(chosen + start + i, mask=start + i < total, other=-1).to(tl.int32)
        counts += tl.sum((choice[:, None] == e[None, :]).to(tl.int32), 0)
    counts = tl.where(e < tl.num_programs(0), counts, 0)  # a choice outside the experts is computed elsewhere
    blocks = (counts + block_m - 1) // block_m
    before = tl.sum(tl.where(e < expert, blocks, 0), 0)
    own = tl.sum(tl.where(e == expert, blocks, 0), 0)
    count = tl.sum(tl.where(e == expert, counts, 0), 0)
    if expert == 0:
        tl.store(used, tl.sum(blocks, 0))
    for start in range(0, own, block_p):
        tl.store(owners + before + start + i, expert, mask=start + i < own)
    place = before * block_m
    for start in range(0, total, block_p):
        mine = tl.load(chosen + start + i, mask=start + i < total, other=-1) == expert
        rank = tl.cumsum(mine.to(tl.int32), 0)
        tl.store(pairs + place + rank - 1, start + i, mask=mine)
        place += tl.sum(mine.to(tl.int32), 0)
    end = (before + own) * block_m
    m = tl.arange(0, block_m)
    tl.store(pairs + before * block_m + count + m, total, mask=before * block_m + count + m < end)
