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
        """Give cos and sin of each pair's angle, float32 [rows, head_dim / 2, 2], for positions [rows].

        One serves all layers.
        """
        angles = positions[:, None].float() * self._inverse_frequencies
        return torch.stack((angles.cos(), angles.sin()), dim=-1)


def rotate_(x: Tensor, turns: Tensor) -> None:
    """Turn x [rows, heads, head_dim] in place by `turns`; its last axis is contiguous."""
    turn = torch.view_as_complex(turns).unsqueeze(1)
    if x.dtype == torch.float32:
        _pairs(x).mul_(turn)
        return
    turned = _pairs(x.float()) * turn
    x.copy_(torch.view_as_real(turned).flatten(-2))


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
