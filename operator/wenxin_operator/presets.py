"""The released text models of the ERNIE 4.5 family: where they are, and what an inspection of them tells. Pure.

Those with "-PT" in the name of their repository are in the layout that the runtime reads; the "-Paddle" ones are not.
"""

import math
from typing import Any

from wenxin_operator.api.status import ModelFacts

GIB = 2**30


def _model(**shape: Any) -> ModelFacts:
    return ModelFacts(vocab_size=103_424, context_length=131_072, dtype="bfloat16", head_dim=128, **shape)


_SMALL = _model(
    architecture="Ernie4_5ForCausalLM",
    parameters=360_748_032,
    layers=18,
    hidden_size=1024,
    heads=16,
    kv_heads=2,
    intermediate_size=3072,
    tensor_parallel_sizes=(1, 2, 4, 8, 16),
    tied_head=True,
)
_MIDDLE = _model(
    architecture="Ernie4_5_MoeForCausalLM",
    parameters=21_825_437_888,
    layers=28,
    hidden_size=2560,
    heads=20,
    kv_heads=4,
    intermediate_size=12_288,
    tensor_parallel_sizes=(1, 2, 4),
    tied_head=True,
    experts=64,
    experts_per_token=6,
    expert_layers=27,
    expert_size=1536,
    shared_experts=2,
)
_LARGE = _model(
    architecture="Ernie4_5_MoeForCausalLM",
    parameters=299_484_163_264,
    layers=54,
    hidden_size=8192,
    heads=64,
    kv_heads=8,
    intermediate_size=28_672,
    tensor_parallel_sizes=(1, 2, 4, 8, 16, 32, 64),
    experts=64,
    experts_per_token=8,
    expert_layers=51,
    expert_size=3584,
    shared_experts=0,
)

PRESETS = {
    "ernie-4.5-0.3b": _SMALL,
    "ernie-4.5-0.3b-base": _SMALL,
    "ernie-4.5-21b-a3b": _MIDDLE,
    "ernie-4.5-21b-a3b-base": _MIDDLE,
    "ernie-4.5-21b-a3b-thinking": _MIDDLE,
    "ernie-4.5-300b-a47b": _LARGE,
    "ernie-4.5-300b-a47b-base": _LARGE,
}
"""Shapes by name: variants of one size differ in what they were trained on, and in nothing that memory depends on."""

_REPOSITORIES = {
    "ernie-4.5-0.3b": "ERNIE-4.5-0.3B-PT",
    "ernie-4.5-0.3b-base": "ERNIE-4.5-0.3B-Base-PT",
    "ernie-4.5-21b-a3b": "ERNIE-4.5-21B-A3B-PT",
    "ernie-4.5-21b-a3b-base": "ERNIE-4.5-21B-A3B-Base-PT",
    "ernie-4.5-21b-a3b-thinking": "ERNIE-4.5-21B-A3B-Thinking",
    "ernie-4.5-300b-a47b": "ERNIE-4.5-300B-A47B-PT",
    "ernie-4.5-300b-a47b-base": "ERNIE-4.5-300B-A47B-Base-PT",
}
ORGANISATIONS = {"hf": "baidu", "modelscope": "PaddlePaddle"}
"""Who publishes them, by hub."""


def source_of(preset: str, hub: str) -> str:
    """Where a preset is on a hub, as spec.source says it."""
    return f"{hub}://{ORGANISATIONS[hub]}/{_REPOSITORIES[preset]}"


def claim_size(preset: str) -> str:
    """How large a claim must be for one copy of it: its weights in bfloat16, and a tenth and two GiB to spare."""
    return f"{math.ceil(PRESETS[preset].parameters * 2 * 1.1 / GIB) + 2}Gi"
