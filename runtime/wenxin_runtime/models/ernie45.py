"""ERNIE 4.5, dense (0.3B). A Llama with interleaved rotary embedding, an explicit head_dim and, on request, biases."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wenxin_runtime.kernels import Kernels, Linear
from wenxin_runtime.layers.attention import AttentionInput
from wenxin_runtime.layers.rotary import Rotary
from wenxin_runtime.weights.loading import TensorSource
from wenxin_runtime.weights.model_config import ModelConfig
from wenxin_runtime.weights.names import EMBEDDING, HEAD, HEAD_BIAS, LAST_NORM

FeedForward = Callable[[Tensor], Tensor]
FeedForwardOf = Callable[[ModelConfig, TensorSource, Kernels, int], FeedForward]


class Ernie45:
    """Token ids to hidden states, and hidden states to logits."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        kernels: Kernels,
        feed_forward: FeedForwardOf | None = None,
    ) -> None:
        """Read the weights; `feed_forward` makes what stands behind the attention of each layer, else it is dense."""
        feed_forward = feed_forward or dense
        # Rows are looked up in the table as it is stored and converted afterwards: half the memory of a converted one.
        self._embedding = source.stored(EMBEDDING)
        self._rotary = Rotary(config.head_dim, config.rope_theta, source.device)
        self._layers = [
            Layer(config, source, kernels, f"model.layers.{i}.", feed_forward(config, source, kernels, i))
            for i in range(config.num_layers)
        ]
        self._norm = Norm(kernels, source(LAST_NORM), config.rms_norm_eps)
        head = source(EMBEDDING if config.tie_word_embeddings else HEAD)
        self._head = kernels.linear(head, source(HEAD_BIAS) if config.head_bias else None)
        self._dtype = source.dtype

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute the hidden states [rows, hidden] of token_ids [rows] at positions [rows], filling the cache.

        Args:
            token_ids: int64.
            positions: int64, each token's index in its sequence.
            kv_cache: [layers, blocks, block_size, 2 * kv_heads, head_dim].
            step: Which rows belong to which sequence and blocks.
        """
        residual = F.embedding(token_ids, self._embedding).to(self._dtype)
        turns = self._rotary.turns(positions)
        x = None
        for layer, cache in zip(self._layers, kv_cache, strict=True):
            x = layer(residual, x, turns, cache, step)
        return self._norm(residual, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab]."""
        return self._head(hidden)


class Layer:
    """Attention, then feed-forward, each on the normalised sum of all that went before: the residual."""

    def __init__(
        self, config: ModelConfig, source: TensorSource, kernels: Kernels, prefix: str, feed_forward: FeedForward
    ) -> None:
        eps = config.rms_norm_eps
        self._input_norm = Norm(kernels, source(prefix + "input_layernorm.weight"), eps)
        self._attention = Attention(config, source, kernels, prefix + "self_attn.")
        self._post_attention_norm = Norm(kernels, source(prefix + "post_attention_layernorm.weight"), eps)
        self._feed_forward = feed_forward

    def __call__(
        self, residual: Tensor, x: Tensor | None, turns: Tensor, cache: Tensor, step: AttentionInput
    ) -> Tensor:
        """Add x, what the layer before has said, to `residual` in place, and say something new, both [rows, hidden]."""
        x = self._attention(self._input_norm(residual, x), turns, cache, step)
        return self._feed_forward(self._post_attention_norm(residual, x))


class Norm:
    """RMSNorm of the residual, after adding to it what is not in there yet."""

    def __init__(self, kernels: Kernels, weight: Tensor, eps: float) -> None:
        self._kernels = kernels
        self._weight = weight
        self._eps = eps

    def __call__(self, residual: Tensor, x: Tensor | None) -> Tensor:
        """Add x to `residual` in place, and return the normalised sum, all [rows, hidden]."""
        if x is None:
            return self._kernels.rms_norm(residual, self._weight, self._eps)
        return self._kernels.add_rms_norm_(residual, x, self._weight, self._eps)


class Attention:
    """Grouped-query attention; queries, keys and values come from one fused projection."""

    def __init__(self, config: ModelConfig, source: TensorSource, kernels: Kernels, prefix: str) -> None:
        self._kernels = kernels
        self._qkv = fused(source, kernels, prefix, "q_proj", "k_proj", "v_proj", bias=config.use_bias)
        self._out = fused(source, kernels, prefix, "o_proj", bias=config.use_bias)
        self._heads = config.num_heads
        self._kv_heads = config.num_kv_heads
        self._head_dim = config.head_dim

    def __call__(self, x: Tensor, turns: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """Map x [rows, hidden] to the same shape, writing the rows' keys and values into the cache."""
        qkv = self._qkv(x).view(-1, self._heads + 2 * self._kv_heads, self._head_dim)
        self._kernels.rotate_and_write_(qkv, turns, cache, step.slots, self._heads)
        return self._out(self._kernels.attend(qkv[:, : self._heads], cache, step))


class MLP:
    """down(silu(gate(x)) * up(x)); gate and up come from one fused projection."""

    def __init__(self, source: TensorSource, kernels: Kernels, prefix: str, *, bias: bool) -> None:
        self._kernels = kernels
        self._gate_up = fused(source, kernels, prefix, "gate_proj", "up_proj", bias=bias)
        self._down = fused(source, kernels, prefix, "down_proj", bias=bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        return self._down(self._kernels.silu_and_mul(self._gate_up(x)))


def dense(config: ModelConfig, source: TensorSource, kernels: Kernels, layer: int) -> FeedForward:
    """Make the MLP of a dense layer."""
    return MLP(source, kernels, f"model.layers.{layer}.mlp.", bias=config.use_bias)


def fused(source: TensorSource, kernels: Kernels, prefix: str, *names: str, bias: bool) -> Linear:
    """Read projections of the same input as one linear layer, their outputs side by side."""
    weight = stacked(source, prefix, *names)
    biases = [source(f"{prefix}{name}.bias") for name in names] if bias else None
    return kernels.linear(weight, torch.cat(biases) if biases else None)


def stacked(source: TensorSource, prefix: str, *names: str) -> Tensor:
    """Read the weights of projections of the same input, [all their outputs, in]."""
    weights = [source(f"{prefix}{name}.weight") for name in names]
    return weights[0] if len(weights) == 1 else torch.cat(weights)
