"""What a step must read and compute at least, by the model's shape: what the shares of a device's rates are shares of.

A decode step reads every weight that some row needs once, and the keys and values of every sequence. In a mixture of
experts the rows choose: with `n` rows, an expert is read with probability 1 - (1 - k/E)^n where the choice is even.
"""

import math

from wenxin_runtime.weights.model_config import ModelConfig
from wenxin_runtime.weights.names import EMBEDDING, expected_shapes


def step_bytes(config: ModelConfig, *, rows: int, context: int, weight_bytes: float, cache_bytes: float) -> float:
    """Bytes of one decode step.

    Args:
        config: The model's shape.
        rows: Sequences in the batch.
        context: Tokens that each of them has in the cache.
        weight_bytes: Bytes per weight of a matrix.
        cache_bytes: Bytes per number in the KV cache.
    """
    cached = rows * context * config.num_layers * 2 * config.num_kv_heads * config.head_dim
    return _weights(config, _share_read(config, rows)) * weight_bytes + cached * cache_bytes


def prefill_flops(config: ModelConfig, tokens: int) -> float:
    """FLOP of computing one prompt: two per weight and token, causal attention, and the head for the last token."""
    share = config.moe.top_k / config.moe.num_experts if config.moe else 1.0
    head = config.vocab_size * config.hidden_size
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * tokens * (tokens + 1) / 2
    return 2 * ((_weights(config, share) - head) * tokens + head) + attention


def _weights(config: ModelConfig, share_of_experts: float) -> float:
    """Count the weights in matrices that a step multiplies with; a tied embedding counts as the head."""
    total = 0.0
    for name, shape in expected_shapes(config).items():
        if len(shape) == 2 and (name != EMBEDDING or config.tie_word_embeddings) and "moe_statics" not in name:
            total += math.prod(shape) * (share_of_experts if ".experts." in name else 1.0)
    return total


def _share_read(config: ModelConfig, rows: int) -> float:
    if config.moe is None:
        return 1.0
    return 1.0 - (1.0 - config.moe.top_k / config.moe.num_experts) ** rows
