"""Drawing with top_p and min_p without sorting the vocabulary.

Best tokens first, a draw takes the token at which the cumulative mass passes a point. Which one that is needs no order,
only a value: the largest one such that the tokens of at least that value weigh more than the point. So it is searched
for among the float32 numbers themselves, four ways at a time, as is the last value that top_p keeps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.language import LAUNCH

_TOKENS_PER_STEP = 1024


def draw(logits: Tensor, points: Tensor, min_p: Tensor, top_p: Tensor) -> Tensor:
    """Draw one token per row from what min_p and then top_p keep, without waiting for the device.

    Args:
        logits: Divided by the temperature, dense float32 [rows, vocabulary].
        points: Uniform numbers in [0, 1), [rows].
        min_p: Smallest probability that is kept, as a share of the largest, [rows].
        top_p: Mass that is kept, [rows].

    Returns:
        int64 [rows]: the token that `sampler` draws from the sorted vocabulary, of equal ones that of the lowest number
        first. A row that is not finite gets some token.
    """
    rows, vocabulary = logits.shape
    out = torch.empty(rows, device=logits.device, dtype=torch.int64)
    draw_kernel[(rows,)](
        logits, points.float().contiguous(), min_p.float().log(), top_p.float().contiguous(), out,
        vocabulary=vocabulary, block=min(_TOKENS_PER_STEP, triton.next_power_of_2(vocabulary)), num_warps=8, **LAUNCH,
    )  # fmt: skip
    return out


@triton.jit
def _key(x: tl.tensor) -> tl.tensor:
    """Map float32 to int32 in the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _value(key: tl.tensor) -> tl.tensor:
    """Undo `_key`."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _mass(row: tl.tensor, peak: tl.tensor, least: tl.tensor, size: tl.constexpr, block: tl.constexpr) -> tl.tensor:
    """Weigh the tokens whose keys are at least each of least [4], int64: sums of exp(logit - peak), float32 [4]."""
    total = tl.zeros((4,), tl.float32)
    for start in range(0, size, block):
        i = start + tl.arange(0, block)
        x = tl.load(row + i, mask=i < size, other=float("-inf"))
        weight = tl.where(i < size, tl.exp(x - peak), 0.0)
        total += tl.sum(tl.where(_key(x)[None, :] >= least[:, None], weight[None, :], 0.0), 1)
    return total


@triton.jit
def _search(
    row: tl.tensor, peak: tl.tensor, low: tl.tensor, target: tl.tensor, size: tl.constexpr, block: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Find the largest key from `low` on whose tokens and better ones weigh more than target.

    Returns:
        The key, int64, and what the better ones weigh.
    """
    high = _key(peak).to(tl.int64) + 1
    way = tl.arange(0, 4).to(tl.int64)
    while high - low > 1:
        step = (high - low + 3) // 4
        heavy = (_mass(row, peak, low + way * step, size, block) > target) & (low + way * step < high)
        low = low + tl.maximum(tl.sum(heavy.to(tl.int64), 0) - 1, 0) * step
        high = tl.minimum(low + step, high)
    return low, tl.max(_mass(row, peak, low + 1 + way * 0, size, block), 0)


@triton.jit
def draw_kernel(
    logits: tl.tensor, points: tl.tensor, floors: tl.tensor, top_p: tl.tensor, out: tl.tensor,
    vocabulary: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    """Draw for one row; grid (rows,)."""
    index = tl.program_id(0)
    row = logits + index.to(tl.int64) * vocabulary
    best = tl.full((block,), float("-inf"), tl.float32)
    for start in range(0, vocabulary, block):
        i = start + tl.arange(0, block)
        best = tl.maximum(best, tl.load(row + i, mask=i < vocabulary, other=float("-inf")))
    peak = tl.max(best, 0)
    low = _key(peak + tl.load(floors + index)).to(tl.int64)
    kept = tl.max(_mass(row, peak, low + tl.arange(0, 4).to(tl.int64) * 0, vocabulary, block), 0)
    wanted = tl.load(top_p + index)
    if wanted < 1:
        # The mass before the last token kept is less than top_p; what is a hair less than that already passes.
        target = kept * wanted
        low, better = _search(row, peak, low, target * (1 - 1e-7), vocabulary, block)
        each = tl.exp(_value(low.to(tl.int32)) - peak)
        kept = tl.minimum(better + tl.maximum(tl.ceil((target - better) / each), 1.0) * each, kept)
    point = tl.load(points + index) * kept
    low, better = _search(row, peak, low, point, vocabulary, block)
    each = tl.exp(_value(low.to(tl.int32)) - peak)
    # Of tokens with the same logit, how many lie before the point.
    before = tl.maximum((point - better) / each, 0.0).to(tl.int32)
    seen = 0
    found = -1
    last = 0
    for start in range(0, vocabulary, block):
        i = start + tl.arange(0, block)
        same = (_key(tl.load(row + i, mask=i < vocabulary, other=float("-inf"))) == low) & (i < vocabulary)
        rank = tl.cumsum(same.to(tl.int32), 0) + seen
        found = tl.maximum(found, tl.max(tl.where(same & (rank == before + 1), i, -1), 0))
        last = tl.maximum(last, tl.max(tl.where(same, i, 0), 0))
        seen += tl.sum(same.to(tl.int32), 0)
    tl.store(out + index, tl.where(found >= 0, found, last).to(tl.int64))
