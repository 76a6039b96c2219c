"""ERNIE 4.5, mixture of experts (21B-A3B, 300B-A47B): the dense model with experts in place of some layers' MLP."""

from torch import Tensor

from wenxin_runtime.kernels import Kernels
from wenxin_runtime.models.ernie45 import MLP, Ernie45, FeedForward, dense, stacked
from wenxin_runtime.weights.loading import TensorSource
from wenxin_runtime.weights.model_config import ModelConfig, MoEConfig


def ernie45_moe(config: ModelConfig, source: TensorSource, kernels: Kernels) -> Ernie45:
    """Read the weights."""
    return Ernie45(config, source, kernels, _feed_forward)


class Mixture:
    """The routed experts' weighted sum, plus the shared experts, which every token goes through unweighted."""

    def __init__(
        self, config: ModelConfig, moe: MoEConfig, source: TensorSource, kernels: Kernels, prefix: str
    ) -> None:
        correction_bias = source.stored(prefix + "moe_statics.e_score_correction_bias")
        self._route = kernels.router(source.stored(prefix + "gate.weight"), correction_bias, moe.top_k, moe.norm_min)
        experts = [f"{prefix}experts.{i}." for i in range(moe.num_experts)]
        self._experts = kernels.experts(
            [stacked(source, expert, "gate_proj", "up_proj") for expert in experts],
            [stacked(source, expert, "down_proj") for expert in experts],
        )
        shared = prefix + "shared_experts."
        self._shared = MLP(source, kernels, shared, bias=config.use_bias) if moe.num_shared else None

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        routed = self._experts(x, *self._route(x))
        return routed + self._shared(x) if self._shared else routed


def _feed_forward(config: ModelConfig, source: TensorSource, kernels: Kernels, layer: int) -> FeedForward:
    if config.moe and layer in config.moe.layers:
        return Mixture(config, config.moe, source, kernels, f"model.layers.{layer}.mlp.")
    return dense(config, source, kernels, layer)
