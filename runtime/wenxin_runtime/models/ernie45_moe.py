"""ERNIE 4.5, mixture of experts (21B-A3B, 300B-A47B): the dense model with experts in place of some layers' MLP."""

from torch import Tensor

from wenxin_runtime.layers.moe import Router, mix
from wenxin_runtime.models.ernie45 import MLP, Ernie45, FeedForward, dense
from wenxin_runtime.weights.loading import TensorSource
from wenxin_runtime.weights.model_config import ModelConfig, MoEConfig


def ernie45_moe(config: ModelConfig, source: TensorSource) -> Ernie45:
    """Read the weights."""
    return Ernie45(config, source, _feed_forward)


class Mixture:
    """The routed experts' weighted sum, plus the shared experts, which every token goes through unweighted."""

    def __init__(self, config: ModelConfig, moe: MoEConfig, source: TensorSource, prefix: str) -> None:
        correction_bias = source.stored(prefix + "moe_statics.e_score_correction_bias")
        self._router = Router(source.stored(prefix + "gate.weight"), correction_bias, moe.top_k, moe.norm_min)
        self._experts = [MLP(source, f"{prefix}experts.{i}.", bias=False) for i in range(moe.num_experts)]
        self._shared = MLP(source, prefix + "shared_experts.", bias=config.use_bias) if moe.num_shared else None

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        routed = mix(x, *self._router(x), self._experts)
        return routed + self._shared(x) if self._shared else routed


def _feed_forward(config: ModelConfig, source: TensorSource, layer: int) -> FeedForward:
    if config.moe and layer in config.moe.layers:
        return Mixture(config, config.moe, source, f"model.layers.{layer}.mlp.")
    return dense(config, source, layer)
