"""RMSNorm as Llama and ERNIE compute it: statistics in float32, cast back, then the weight."""

import torch
from torch import Tensor


class RMSNorm:
    """x / rms(x) * weight over the last axis."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x [rows, hidden]; the result has x's dtype."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
        return self._weight * wide.to(x.dtype)
