"""What the layers of a model are built from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wenxin_runtime.kernels import Kernels, Linear
from wenxin_runtime.parallel.balance import Balance
from wenxin_runtime.parallel.ranks import Mesh
from wenxin_runtime.weights.loading import TensorSource
from wenxin_runtime.weights.model_config import ModelConfig

Read = Callable[[str], Tensor]
"""A tensor by its name in the checkpoint."""


@dataclass(frozen=True, slots=True)
class Builder:
    """The shape of a model, where its tensors come from, and what computes with them.

    Attributes:
        config: The whole model's.
        source: This rank's part of the tensors.
        kernels: The arithmetic.
        mesh: The ranks that compute the model.
        balance: Takes charge of the experts where whole ones are spread over the ranks.
    """

    config: ModelConfig
    source: TensorSource
    kernels: Kernels
    mesh: Mesh
    balance: Balance | None = None

    def linear(self, prefix: str, *names: str, bias: bool) -> Linear:
        """Read projections of the same input as one linear layer, their outputs side by side."""
        bias = bias and self.source.shard.adds_bias(f"{names[0]}.bias")
        biases = [self.source(f"{prefix}{name}.bias") for name in names] if bias else None
        return self.kernels.linear(self.stacked(prefix, *names), torch.cat(biases) if biases else None)

    def stacked(self, prefix: str, *names: str) -> Tensor:
        """See the function `stacked`."""
        return stacked(self.source, prefix, *names)


def stacked(read: Read, prefix: str, *names: str) -> Tensor:
    """Read the weights of projections of the same input, [all their outputs, in]."""
    weights = [read(f"{prefix}{name}.weight") for name in names]
    return weights[0] if len(weights) == 1 else torch.cat(weights)
