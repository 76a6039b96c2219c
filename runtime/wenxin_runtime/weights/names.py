"""The name table: which tensors, of which shape, a checkpoint of a given configuration holds. Shapes are [out, in]."""

import math
import re

from wenxin_runtime.weights.model_config import ModelConfig, MoEConfig

Shapes = dict[str, tuple[int, ...]]

# In some files although nothing reads them: MTP heads (until speculation uses them), buffers of old exports.
_UNUSED = re.compile(r"mtp|rotary_emb\.inv_freq$")
# Paddle's prefix and its fused projections.
PADDLE = re.compile(r"^ernie\.|\.qkv_proj\.|\.up_gate_proj\.")

EMBEDDING = "model.embed_tokens.weight"
LAST_NORM = "model.norm.weight"
HEAD = "lm_head.weight"
HEAD_BIAS = "lm_head.bias"


def is_unused(name: str, config: ModelConfig) -> bool:
    """Say whether a tensor may lie in the files and is not read."""
    return bool(_UNUSED.search(name)) or (config.tie_word_embeddings and name == HEAD)


def expected_shapes(config: ModelConfig) -> Shapes:
    """List every tensor that the model reads."""
    shapes: Shapes = {
        EMBEDDING: (config.vocab_size, config.hidden_size),
        LAST_NORM: (config.hidden_size,),
    }
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    if config.head_bias:
        shapes[HEAD_BIAS] = (config.vocab_size,)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes |= _attention(config, prefix)
        if config.moe and layer in config.moe.layers:
            shapes |= _mixture(config, config.moe, prefix + "mlp.")
        else:
            shapes |= _mlp(config, prefix + "mlp.", config.intermediate_size, bias=config.use_bias)
    return shapes


def active_parameters(config: ModelConfig) -> int:
    """Count the weights that one token is multiplied with.

    Of the routed experts these are the chosen ones; of an embedding that no head is tied to, none: a row is looked up.
    """
    shapes = expected_shapes(config)
    if not config.tie_word_embeddings:
        del shapes[EMBEDDING]
    routed = sum(math.prod(shape) for name, shape in shapes.items() if ".mlp.experts." in name)
    idle = routed * (config.moe.num_experts - config.moe.top_k) // config.moe.num_experts if config.moe else 0
    return sum(map(math.prod, shapes.values())) - idle


def _attention(config: ModelConfig, prefix: str) -> Shapes:
    hidden = config.hidden_size
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    linears: Shapes = {
        "self_attn.q_proj": (q_width, hidden),
        "self_attn.k_proj": (kv_width, hidden),
        "self_attn.v_proj": (kv_width, hidden),
        "self_attn.o_proj": (hidden, q_width),
    }
    norms: Shapes = {f"{prefix}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return _linears(linears, prefix, bias=config.use_bias) | norms


def _mlp(config: ModelConfig, prefix: str, width: int, *, bias: bool) -> Shapes:
    hidden = config.hidden_size
    linears: Shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    return _linears(linears, prefix, bias=bias)


def _mixture(config: ModelConfig, moe: MoEConfig, prefix: str) -> Shapes:
    """Routed experts have no biases even where `use_bias` is set; the shared ones are one MLP."""
    shapes: Shapes = {
        f"{prefix}gate.weight": (moe.num_experts, config.hidden_size),
        f"{prefix}moe_statics.e_score_correction_bias": (1, moe.num_experts),
    }
    for expert in range(moe.num_experts):
        shapes |= _mlp(config, f"{prefix}experts.{expert}.", moe.expert_size, bias=False)
    if moe.num_shared:
        width = moe.num_shared * moe.expert_size
        shapes |= _mlp(config, f"{prefix}shared_experts.", width, bias=config.use_bias)
    return shapes


def _linears(shapes: Shapes, prefix: str, *, bias: bool) -> Shapes:
    weights: Shapes = {f"{prefix}{name}.weight": shape for name, shape in shapes.items()}
    return weights | ({f"{prefix}{name}.bias": shape[:1] for name, shape in shapes.items()} if bias else {})
