"""ERNIE 4.5, dense (0.3B). A Llama with interleaved rotary embedding, an explicit head_dim and, on request, biases."""

from collections.abc import Callable

import torch
from torch import Tensor

from wenxin_runtime.layers.attention import AttentionInput
from wenxin_runtime.layers.embedding import Embedding
from wenxin_runtime.layers.rotary import Rotary
from wenxin_runtime.models.builder import Builder
from wenxin_runtime.weights.names import EMBEDDING, HEAD_BIAS, LAST_NORM

FeedForward = Callable[[Tensor], Tensor]
FeedForwardOf = Callable[[Builder, int], FeedForward]


class Ernie45:
    """Token ids to hidden states, and hidden states to logits.

    On several ranks each computes its part of every layer, and all have the same hidden states and logits.
    """

    def __init__(self, builder: Builder, feed_forward: FeedForwardOf | None = None) -> None:
        """Read the weights; `feed_forward` makes what stands behind the attention of each layer, else it is dense."""
        config, source, mesh = builder.config, builder.source, builder.mesh
        feed_forward = feed_forward or dense
        first = source.shard.vocabulary.start
        table = source.stored(EMBEDDING)
        self._embedding = Embedding(table, first, source.dtype, mesh.tensor)
        self._rotary = Rotary(config.head_dim, config.rope_theta, source.device)
        self._layers = [
            Layer(builder, f"model.layers.{i}.", feed_forward(builder, i)) for i in range(config.num_layers)
        ]
        self._norm = Norm(builder, LAST_NORM)
        head = table if source.shares_table and table.dtype == source.dtype else source.head()
        self._head = builder.kernels.linear(head, source(HEAD_BIAS) if config.head_bias else None)
        self._world = mesh.world
        self._hidden_size, self._dtype = config.hidden_size, source.dtype

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute the hidden states [rows, hidden] of token_ids [rows] at positions [rows], filling the cache.

        Args:
            token_ids: int64; none where only other data-parallel groups have rows in this step.
            positions: int64, each token's index in its sequence.
            kv_cache: [layers, blocks, block_size, 2 * kv_heads, head_dim]; of this rank's heads.
            step: Which rows belong to which sequence and blocks.
        """
        if not len(token_ids):
            return self._without_rows(token_ids)
        residual = self._embedding(token_ids)
        turns = self._rotary.turns(positions)
        x = None
        for layer, cache in zip(self._layers, kv_cache, strict=True):
            x = layer(residual, x, turns, cache, step)
        return self._norm(residual, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab]."""
        return self._world.join(self._head(hidden))

    def _without_rows(self, token_ids: Tensor) -> Tensor:
        nothing = torch.empty(0, self._hidden_size, dtype=self._dtype, device=token_ids.device)
        for layer in self._layers:
            layer.meet(nothing)
        return nothing


class Layer:
    """Attention, then feed-forward, each on the normalised sum of all that went before: the residual."""

    def __init__(self, builder: Builder, prefix: str, feed_forward: FeedForward) -> None:
        self._input_norm = Norm(builder, prefix + "input_layernorm.weight")
        self._attention = Attention(builder, prefix + "self_attn.")
        self._post_attention_norm = Norm(builder, prefix + "post_attention_layernorm.weight")
        self._feed_forward = feed_forward
        self._ranks = builder.mesh.tensor

    def __call__(
        self, residual: Tensor, x: Tensor | None, turns: Tensor, cache: Tensor, step: AttentionInput
    ) -> Tensor:
        """Add x, what the layer before has said, to `residual` in place, and say something new, both [rows, hidden]."""
        x = self._ranks.sum_(self._attention(self._input_norm(residual, x), turns, cache, step))
        return self._ranks.sum_(self._feed_forward(self._post_attention_norm(residual, x)))

    def meet(self, nothing: Tensor) -> None:
        """Have no rows, [0, hidden]: only what ranks of all groups compute together is computed."""
        self._feed_forward(nothing)


class Norm:
    """RMSNorm of the residual, after adding to it what is not in there yet."""

    def __init__(self, builder: Builder, name: str) -> None:
        self._kernels = builder.kernels
        self._weight = builder.source(name)
        self._eps = builder.config.rms_norm_eps

    def __call__(self, residual: Tensor, x: Tensor | None) -> Tensor:
        """Add x to `residual` in place, and return the normalised sum, all [rows, hidden]."""
        if x is None:
            return self._kernels.rms_norm(residual, self._weight, self._eps)
        return self._kernels.add_rms_norm_(residual, x, self._weight, self._eps)


class Attention:
    """Grouped-query attention; queries, keys and values come from one fused projection."""

    def __init__(self, builder: Builder, prefix: str) -> None:
        config, shard = builder.config, builder.source.shard
        self._kernels = builder.kernels
        self._qkv = builder.linear(prefix, "q_proj", "k_proj", "v_proj", bias=config.use_bias)
        self._out = builder.linear(prefix, "o_proj", bias=config.use_bias)
        self._heads = len(shard.heads)
        self._kv_heads = len(shard.kv_heads)
        self._head_dim = config.head_dim

    def __call__(self, x: Tensor, turns: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
        """Map x [rows, hidden] to the same shape, writing the rows' keys and values into the cache."""
        qkv = self._qkv(x).view(-1, self._heads + 2 * self._kv_heads, self._head_dim)
        self._kernels.rotate_and_write_(qkv, turns, cache, step.slots, self._heads)
        return self._out(self._kernels.attend(qkv[:, : self._heads], cache, step))


class MLP:
    """down(silu(gate(x)) * up(x)); gate and up come from one fused projection."""

    def __init__(self, builder: Builder, prefix: str, *, bias: bool) -> None:
        self._kernels = builder.kernels
        self._gate_up = builder.linear(prefix, "gate_proj", "up_proj", bias=bias)
        self._down = builder.linear(prefix, "down_proj", bias=bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [rows, hidden] to the same shape; there may be no rows."""
        if not len(x):
            return x
        return self._down(self._kernels.silu_and_mul(self._gate_up(x)))


def dense(builder: Builder, layer: int) -> FeedForward:
    """Make the MLP of a dense layer."""
    return MLP(builder, f"model.layers.{layer}.mlp.", bias=builder.config.use_bias)
