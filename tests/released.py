"""The configurations of the released text models, for every test that needs one: what their config.json says."""

from typing import Any

from wenxin_runtime.fixture.shapes import SHAPES

DENSE_300M: dict[str, Any] = SHAPES["ernie4_5"]["0.3b"]
MOE_21B: dict[str, Any] = SHAPES["ernie4_5_moe"]["21b-a3b"]
MOE_300B: dict[str, Any] = MOE_21B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "moe_intermediate_size": 3584,
    "moe_k": 8,
    "moe_layer_end_index": 53,
    "moe_layer_start_index": 3,
    "moe_num_shared_experts": 0,
    "num_attention_heads": 64,
    "num_hidden_layers": 54,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
RELEASED = {"0.3B": DENSE_300M, "21B": MOE_21B, "300B": MOE_300B}
