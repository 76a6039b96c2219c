"""Rotary embedding in ERNIE's layout: neighbouring elements (2i, 2i+1) form a pair, over the whole head, in float32.

A pair turned by an angle is a complex number times exp(i * angle), so one multiplication turns all heads. Most other
models pair i with i + d/2 instead; with short prompts both look alike, which is how ports have gone wrong.
"""

import torch
from torch import Tensor


class Rotary:
    """Angles of one model: position * theta^(-2i/d)."""

    def __init__(self, head_dim: int, theta: float, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        self._inverse_frequencies = 1.0 / (theta**exponents)

    def turns(self, positions: Tensor) -> Tensor:
        """Give exp(i * angle), complex64 [rows, 1, head_dim / 2], for positions [rows]; one serves all layers."""
        angles = positions[:, None].float() * self._inverse_frequencies
        return torch.complex(angles.cos(), angles.sin()).unsqueeze(1)


def rotate_(x: Tensor, turns: Tensor) -> None:
    """Turn x [rows, heads, head_dim] in place; its last axis is contiguous."""
    if x.dtype == torch.float32:
        _pairs(x).mul_(turns)
        return
    turned = _pairs(x.float()) * turns
    x.copy_(torch.view_as_real(turned).flatten(-2))


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
