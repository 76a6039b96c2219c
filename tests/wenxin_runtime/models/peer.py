"""transformers as the reference: it makes checkpoints of any configuration, and says what their logprobs are."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Ernie4_5_MoeConfig,
    Ernie4_5_MoeForCausalLM,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    PreTrainedModel,
)

SMALL = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}


SMALL_MOE = SMALL | {
    "num_hidden_layers": 3,
    "moe_num_experts": 8,
    "moe_k": 3,
    "moe_intermediate_size": 40,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
}


def make(directory: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> Ernie4_5ForCausalLM:
    """Save a random dense model."""
    return _save(Ernie4_5ForCausalLM, Ernie4_5Config, directory, seed, dtype, SMALL | overrides)


def make_moe(directory: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> PreTrainedModel:
    """Save a random mixture of experts, with correction biases that outweigh the scores they correct."""
    return _save(Ernie4_5_MoeForCausalLM, Ernie4_5_MoeConfig, directory, seed, dtype, SMALL_MOE | overrides)


def _save(
    kind: Any, config_kind: Any, directory: Path, seed: int, dtype: torch.dtype, overrides: dict[str, Any]
) -> Any:
    """Norms and biases are random too, for transformers sets them to one and zero."""
    theta = overrides.pop("rope_theta", None)
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}} if theta else {}
    config = config_kind(**overrides | rope, attn_implementation="sdpa")
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.2)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
            else:
                parameter.normal_(0.0, 0.4 if "embed" in name or "head" in name else parameter.shape[-1] ** -0.5)
    model.to(dtype).save_pretrained(directory)
    return model


def load(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Read a checkpoint of either kind; a model's own `.float()` would keep rotary frequencies that were rounded."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


@torch.inference_mode()
def logprobs(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """[tokens, vocab]: row i is the distribution of token i + 1."""
    return model(torch.tensor([token_ids])).logits[0].float().log_softmax(-1)
