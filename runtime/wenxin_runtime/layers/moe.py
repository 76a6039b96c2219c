"""Mixture of experts in plain torch: the reference for every kernel, and what runs on a CPU.

The router works in float32 whatever the model's dtype: near ties, a rounded score chooses another expert.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Expert = Callable[[Tensor], Tensor]
ExpertOf = Callable[[Tensor, Tensor], Expert]
"""gate_up [2 * width, hidden] and down [hidden, width] to what maps [rows, hidden] to the same shape."""


class Router:
    """Chooses `top_k` experts per token: by corrected score, weighted by the uncorrected one.

    The correction bias balances the load: it selects and never weighs (auxiliary-loss-free balancing as in DeepSeek-V3,
    with softmax scores; transformers' Ernie4_5_MoeTopKRouter).
    """

    def __init__(self, weight: Tensor, correction_bias: Tensor, top_k: int, norm_min: float) -> None:
        self._weight = weight.float()
        self._correction_bias = correction_bias.float().flatten()
        self._top_k = top_k
        self._norm_min = norm_min

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Route x [rows, hidden].

        Returns:
            The chosen experts, int64 [rows, top_k], and their weights [rows, top_k] in x's dtype, summing to 1.
        """
        scores = F.linear(x.float(), self._weight).softmax(dim=-1)
        chosen = (scores + self._correction_bias).topk(self._top_k, dim=-1).indices
        weights = scores.gather(1, chosen)
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=self._norm_min)
        return chosen, weights.to(x.dtype)


class Experts:
    """Experts one after the other; implements `wenxin_runtime.kernels.Experts`."""

    def __init__(self, gate_up: Sequence[Tensor], down: Sequence[Tensor], expert_of: ExpertOf) -> None:
        self._expert_of = expert_of
        self._device = down[0].device
        self._experts = [expert_of(*weights) for weights in zip(gate_up, down, strict=True)]

    def __call__(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """See `mix`."""
        return mix(x, chosen, weights, self._experts)

    def replace(self, slot: int, gate_up: Tensor, down: Tensor) -> None:
        """Put another expert into a slot."""
        self._experts[slot] = self._expert_of(gate_up.to(self._device), down.to(self._device))


def mix(x: Tensor, chosen: Tensor, weights: Tensor, experts: Sequence[Expert]) -> Tensor:
    """Send every row through its experts and sum what they say by weight.

    The rows are sorted by expert, so each expert that is hit runs once and none that is not.

    Args:
        x: [rows, hidden].
        chosen: int64 [rows, top_k]; an index outside `experts` is computed elsewhere and adds nothing here.
        weights: [rows, top_k].
        experts: Each maps [any, hidden] to the same shape.

    Returns:
        [rows, hidden].
    """
    out = torch.zeros_like(x)
    flat = chosen.flatten()
    here = ((flat >= 0) & (flat < len(experts))).nonzero().flatten()
    order = here[flat[here].argsort(stable=True)]
    rows, shares = order // chosen.shape[1], weights.flatten()[order, None]
    start = 0
    for expert, count in zip(experts, flat[here].bincount(minlength=len(experts)).tolist(), strict=True):
        if count:
            part = slice(start, start + count)
            out.index_add_(0, rows[part], expert(x[rows[part]]) * shares[part])
            start += count
    return out
