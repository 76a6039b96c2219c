"""ERNIE 4.5, dense (0.3B). A Llama with interleaved rotary embedding, an explicit head_dim and, on request, biases."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wenxin_runtime.layers.attention import AttentionInput, attend, write_kv
from wenxin_runtime.layers.linear import Linear, linear
from wenxin_runtime.layers.norm import RMSNorm
from wenxin_runtime.layers.rotary import Rotary, rotate_
from wenxin_runtime.weights.loading import TensorSource
from wenxin_runtime.weights.model_config import ModelConfig
from wenxin_runtime.weights.names import EMBEDDING, HEAD, HEAD_BIAS, LAST_NORM

FeedForward = Callable[[Tensor], Tensor]
FeedForwardOf = Callable[[ModelConfig, TensorSource, int], FeedForward]


class Ernie45:
    """Token ids to hidden states, and hidden states to logits."""

    def __init__(self, config: ModelConfig, source: TensorSource, feed_forward: FeedForwardOf | None = None) -> None:
        """Read the weights; `feed_forward` makes what stands behind the attention of each layer, else it is dense."""
        feed_forward = feed_forward or dense
        # Rows are looked up in the table as it is stored and converted afterwards: half the memory of a converted one.
        self._embedding = source.stored(EMBEDDING)
        self._rotary = Rotary(config.head_dim, config.rope_theta, source.device)
        self._layers = [
            Layer(config, source, f"model.layers.{i}.", feed_forward(config, source, i))
            for i in range(config.num_layers)
        ]
        self._norm = RMSNorm(source(LAST_NORM), config.rms_norm_eps)
        head = source(EMBEDDING if config.tie_word_embeddings else HEAD)
        self._head = linear(head, source(HEAD_BIAS) if config.head_bias else None)
        self._dtype = source.dtype

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute the hidden states [rows, hidden] of token_ids [rows] at positions [rows], filling the cache.

        Args:
            token_ids: int64.
            positions: int64, each token's index in its sequence.
            kv_cache: [layers, blocks, block_size, 2 * kv_heads, head_dim].
            step: Which rows belong to which sequence and blocks.
        """
        x = F.embedding(token_ids, self._embedding).to(self._dtype)
        turns = self._rotary.turns(positions)
        for layer, cache in zip(self._layers, kv_cache, strict=True):
            x = layer(x, turns, cache, step)
        return self._norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab]."""
        return self._head(hidden)


class Layer:
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, source: TensorSource, prefix: str, feed_forward: FeedForward) -> None:
        self._input_norm = RMSNorm(source(prefix + "input_layernorm.weight"), config.rms_norm_eps)
        self._attention = Attention(config, source, prefix + "self_attn.")
        self._post_attention_norm = RMSNorm(source(prefix + "post_attention_layernorm.weight"), config.rms_norm_eps)
        self._feed_forward = feed_forward

    def __call__(self, x: Tensor, turns: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        x = x + self._attention(self._input_norm(x), turns, cache, step)
        return x + self._feed_forward(self._post_attention_norm(x))


class Attention:
    """Grouped-query attention; queries, keys and values come from one fused projection."""

    def __init__(self, config: ModelConfig, source: TensorSource, prefix: str) -> None:
        self._qkv = fused(source, prefix, "q_proj", "k_proj", "v_proj", bias=config.use_bias)
        self._out = fused(source, prefix, "o_proj", bias=config.use_bias)
        self._heads = config.num_heads
        self._kv_heads = config.num_kv_heads
        self._head_dim = config.head_dim

    def __call__(self, x: Tensor, turns: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """Map x [rows, hidden] to the same shape, writing the rows' keys and values into the cache."""
        qkv = self._qkv(x).view(-1, self._heads + 2 * self._kv_heads, self._head_dim)
        rotate_(qkv[:, : self._heads + self._kv_heads], turns)
        write_kv(cache, step.slots, qkv[:, self._heads :])
        return self._out(attend(qkv[:, : self._heads], cache, step))


class MLP:
    """down(silu(gate(x)) * up(x)); gate and up come from one fused projection."""

    def __init__(self, source: TensorSource, prefix: str, *, bias: bool) -> None:
        self._gate_up = fused(source, prefix, "gate_proj", "up_proj", bias=bias)
        self._down = fused(source, prefix, "down_proj", bias=bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape."""
        gate, up = self._gate_up(x).chunk(2, dim=-1)
        return self._down(F.silu(gate).mul_(up))


def dense(config: ModelConfig, source: TensorSource, layer: int) -> FeedForward:
    """Make the MLP of a dense layer."""
    return MLP(source, f"model.layers.{layer}.mlp.", bias=config.use_bias)


def fused(source: TensorSource, prefix: str, *names: str, bias: bool) -> Linear:
    """Read projections of the same input as one linear layer, their outputs side by side."""
    weights = [source(f"{prefix}{name}.weight") for name in names]
    biases = [source(f"{prefix}{name}.bias") for name in names] if bias else None
    if len(names) == 1:
        return linear(weights[0], biases[0] if biases else None)
    return linear(torch.cat(weights), torch.cat(biases) if biases else None)
