"""The name table: which tensors, of which shape, a checkpoint of a given configuration holds. Shapes are [out, in]."""

import re

from wenxin_runtime.weights.model_config import ModelConfig

Shapes = dict[str, tuple[int, ...]]

# In some files although nothing reads them: MTP heads (until speculation uses them), buffers of old exports.
_UNUSED = re.compile(r"mtp|rotary_emb\.inv_freq$")
# Paddle's prefix and its fused projections.
PADDLE = re.compile(r"^ernie\.|\.qkv_proj\.|\.up_gate_proj\.")

EMBEDDING = "model.embed_tokens.weight"
LAST_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


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
    for layer in range(config.num_layers):
        shapes |= _dense_layer(config, f"model.layers.{layer}.")
    return shapes


def _dense_layer(config: ModelConfig, prefix: str) -> Shapes:
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    linears: Shapes = {
        "self_attn.q_proj": (q_width, hidden),
        "self_attn.k_proj": (kv_width, hidden),
        "self_attn.v_proj": (kv_width, hidden),
        "self_attn.o_proj": (hidden, q_width),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    shapes: Shapes = {f"{prefix}{name}.weight": shape for name, shape in linears.items()}
    if config.use_bias:
        shapes |= {f"{prefix}{name}.bias": shape[:1] for name, shape in linears.items()}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{prefix}{norm}.weight"] = (hidden,)
    return shapes
