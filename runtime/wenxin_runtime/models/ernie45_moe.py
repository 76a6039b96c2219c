"""ERNIE 4.5, mixture of experts (21B-A3B, 300B-A47B): the dense model with experts in place of some layers' MLP."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wenxin_runtime.kernels import Experts, Route
from wenxin_runtime.models.builder import Builder, Read, stacked
from wenxin_runtime.models.ernie45 import MLP, Ernie45, FeedForward, dense
from wenxin_runtime.parallel.balance import ExpertLayer
from wenxin_runtime.parallel.dispatch import Dispatch
from wenxin_runtime.weights.model_config import MoEConfig


def ernie45_moe(builder: Builder) -> Ernie45:
    """Read the weights."""
    return Ernie45(builder, _feed_forward)


class Mixture:
    """The routed experts' weighted sum, plus the shared experts, which every token goes through unweighted."""

    def __init__(self, builder: Builder, moe: MoEConfig, layer: int) -> None:
        shared = f"{_mixture(layer)}shared_experts."
        self._routed = _routed(builder, moe, layer)
        self._shared = MLP(builder, shared, bias=builder.config.use_bias) if moe.num_shared else None

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        routed = self._routed(x)
        return routed + self._shared(x) if self._shared else routed


class Routed:
    """The routed experts where all ranks that share them have the same rows: each says what its own experts say."""

    def __init__(self, route: Route, experts: Experts, layer: ExpertLayer | None) -> None:
        """Without a `layer`, every rank has a part of each expert."""
        self._route = route
        self._experts = experts
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape; there may be no rows."""
        if not len(x):
            return x
        chosen, weights = self._route(x)
        slots = self._layer.find(chosen) - self._layer.first if self._layer else chosen
        return self._experts(x, slots, weights)


def read_expert(read: Read, layer: int, expert: int) -> tuple[Tensor, Tensor]:
    """Read the weights of one expert, as `Kernels.experts` wants them."""
    prefix = f"{_mixture(layer)}experts.{expert}."
    return stacked(read, prefix, "gate_proj", "up_proj"), stacked(read, prefix, "down_proj")


def _routed(builder: Builder, moe: MoEConfig, layer: int) -> FeedForward:
    stored, kernels, balance = builder.source.stored, builder.kernels, builder.balance
    bias = stored(_mixture(layer) + "moe_statics.e_score_correction_bias")
    route = kernels.router(stored(_mixture(layer) + "gate.weight"), bias, moe.top_k, moe.norm_min)
    gate_up, down = zip(*(read_expert(builder.source, layer, i) for i in builder.source.shard.experts), strict=True)
    if balance is None:
        return Routed(route, kernels.experts(gate_up, down), None)
    places = balance.slots.copies
    experts = kernels.experts(_with_places(gate_up, places), _with_places(down, places))
    if builder.mesh.groups > 1:
        return Dispatch(route, experts, balance.add(layer, experts), builder.mesh, moe.top_k)
    return Routed(route, experts, balance.add(layer, experts))


def _with_places(weights: Sequence[Tensor], places: int) -> list[Tensor]:
    """Add places for copies, which take their memory from the beginning."""
    return [*weights, *[torch.zeros_like(weights[0])] * places]


def _mixture(layer: int) -> str:
    return f"model.layers.{layer}.mlp."


def _feed_forward(builder: Builder, layer: int) -> FeedForward:
    moe = builder.config.moe
    return Mixture(builder, moe, layer) if moe and layer in moe.layers else dense(builder, layer)
