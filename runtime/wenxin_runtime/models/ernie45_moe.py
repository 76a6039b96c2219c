"""ERNIE 4.5, mixture of experts (21B-A3B, 300B-A47B): the dense model with experts in place of some layers' MLP."""

from torch import Tensor

from wenxin_runtime.models.builder import Builder
from wenxin_runtime.models.ernie45 import MLP, Ernie45, FeedForward, dense
from wenxin_runtime.weights.model_config import MoEConfig


def ernie45_moe(builder: Builder) -> Ernie45:
    """Read the weights."""
    return Ernie45(builder, _feed_forward)


class Mixture:
    """The routed experts' weighted sum, plus the shared experts, which every token goes through unweighted."""

    def __init__(self, builder: Builder, moe: MoEConfig, prefix: str) -> None:
        stored, here = builder.source.stored, builder.source.shard.experts
        bias = stored(prefix + "moe_statics.e_score_correction_bias")
        self._route = builder.kernels.router(stored(prefix + "gate.weight"), bias, moe.top_k, moe.norm_min)
        self._experts = builder.kernels.experts(
            [builder.stacked(f"{prefix}experts.{i}.", "gate_proj", "up_proj") for i in here],
            [builder.stacked(f"{prefix}experts.{i}.", "down_proj") for i in here],
        )
        self._first = here.start
        shared = prefix + "shared_experts."
        self._shared = MLP(builder, shared, bias=builder.config.use_bias) if moe.num_shared else None

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        chosen, weights = self._route(x)
        routed = self._experts(x, chosen - self._first, weights)
        return routed + self._shared(x) if self._shared else routed


def _feed_forward(builder: Builder, layer: int) -> FeedForward:
    moe = builder.config.moe
    if moe and layer in moe.layers:
        return Mixture(builder, moe, f"model.layers.{layer}.mlp.")
    return dense(builder, layer)
