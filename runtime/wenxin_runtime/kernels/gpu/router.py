"""The router: which experts a row goes to, in float32 throughout, with one kernel behind the product."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.language import LAUNCH, narrow

# Up to here one kernel widens and multiplies at once; more rows are worth a copy in float32 and a library's product.
_FEW_ROWS = 16
_EXPERTS_PER_PROGRAM = 4
_DEPTH_PER_STEP = 512
_ROWS_PER_PROGRAM = 4


class Router:
    """Implements `Kernels.router`."""

    def __init__(self, weight: Tensor, correction_bias: Tensor, top_k: int, norm_min: float) -> None:
        self._weight = weight.float().contiguous()
        self._correction_bias = correction_bias.float().flatten().contiguous()
        self._top_k = top_k
        self._norm_min = norm_min

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Route dense x [rows, hidden]; a row that is not finite gets valid experts, and weights that are NaN."""
        rows, experts = x.shape[0], self._weight.shape[0]
        logits = self._few(x) if rows <= _FEW_ROWS else F.linear(x.float(), self._weight)
        chosen = torch.empty(rows, self._top_k, device=x.device, dtype=torch.int64)
        weights = torch.empty(rows, self._top_k, device=x.device, dtype=x.dtype)
        choose_kernel[(triton.cdiv(rows, _ROWS_PER_PROGRAM),)](
            logits, self._correction_bias, chosen, weights, rows, self._norm_min,
            experts=experts, block_e=triton.next_power_of_2(experts), top_k=self._top_k,
            block_t=triton.next_power_of_2(self._top_k), block_r=_ROWS_PER_PROGRAM, num_warps=2, **LAUNCH,
        )  # fmt: skip
        return chosen, weights

    def _few(self, x: Tensor) -> Tensor:
        rows, (experts, hidden) = x.shape[0], self._weight.shape
        logits = torch.empty(rows, experts, device=x.device)
        score_kernel[(rows, triton.cdiv(experts, _EXPERTS_PER_PROGRAM))](
            x, self._weight, logits, experts=experts, hidden=hidden, block_e=_EXPERTS_PER_PROGRAM,
            block_k=min(_DEPTH_PER_STEP, triton.next_power_of_2(hidden)), num_warps=4, **LAUNCH,
        )  # fmt: skip
        return logits


@triton.jit
def score_kernel(
    x: tl.tensor, weight: tl.tensor, logits: tl.tensor,
    experts: tl.constexpr, hidden: tl.constexpr, block_e: tl.constexpr, block_k: tl.constexpr,
) -> None:  # fmt: skip
    """Score block_e experts for one row; grid (rows, expert blocks)."""
    row = tl.program_id(0).to(tl.int64)
    expert = tl.program_id(1) * block_e + tl.arange(0, block_e)
    total = tl.zeros((block_e, block_k), tl.float32)
    for start in range(0, hidden, block_k):
        k = start + tl.arange(0, block_k)
        value = tl.load(x + row * hidden + k, mask=k < hidden, other=0.0).to(tl.float32)
        there = (expert < experts)[:, None] & (k < hidden)[None, :]
        total += value[None, :] * tl.load(weight + expert[:, None] * hidden + k[None, :], mask=there, other=0.0)
    tl.store(logits + row * experts + expert, tl.sum(total, 1), mask=expert < experts)


@triton.jit(do_not_specialize=["rows"])
def choose_kernel(
    logits: tl.tensor, correction_bias: tl.tensor, chosen: tl.tensor, weights: tl.tensor,
    rows: tl.tensor, norm_min: tl.tensor,
    experts: tl.constexpr, block_e: tl.constexpr, top_k: tl.constexpr, block_t: tl.constexpr, block_r: tl.constexpr,
) -> None:  # fmt: skip
    """Softmax, the best top_k by corrected score, their uncorrected scores divided by their sum; grid (row blocks,).

    Of equal scores the expert of the lower number goes first. A score that is NaN loses against every number, so a
    row of NaN chooses the first experts, each once, and their weights tell.
    """
    row = tl.program_id(0) * block_r + tl.arange(0, block_r)
    e = tl.arange(0, block_e)
    t = tl.arange(0, block_t)
    real = (e < experts)[None, :]
    scores = tl.load(
        logits + row[:, None] * experts + e[None, :], mask=(row < rows)[:, None] & real, other=float("-inf")
    )
    scores = tl.where((row < rows)[:, None], scores, 0.0)
    odds = tl.where(real, tl.exp(scores - tl.max(scores, 1)[:, None]), 0.0)
    scores = odds / tl.sum(odds, 1)[:, None]
    left = scores + tl.load(correction_bias + e, mask=e < experts, other=0.0)[None, :]
    left = tl.where(left == left, left, -3e38)  # noqa: PLR0124 - what is not equal to itself is NaN
    left = tl.where(real, left, float("-inf"))
    picks = tl.zeros((block_r, block_t), tl.int32)
    shares = tl.zeros((block_r, block_t), tl.float32)
    for i in tl.static_range(top_k):
        best = tl.argmax(left, 1)
        hit = e[None, :] == best[:, None]
        share = tl.sum(tl.where(hit, scores, 0.0), 1)
        picks = tl.where((t == i)[None, :], best[:, None], picks)
        shares = tl.where((t == i)[None, :], share[:, None], shares)
        left = tl.where(hit, float("-inf"), left)
    shares = shares / tl.maximum(tl.sum(shares, 1), norm_min)[:, None]
    where = row[:, None] * top_k + t[None, :]
    there = (row < rows)[:, None] & (t < top_k)[None, :]
    tl.store(chosen + where, picks.to(tl.int64), mask=there)
    tl.store(weights + where, narrow(shares, weights.dtype.element_ty), mask=there)
