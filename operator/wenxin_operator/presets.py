"""The released text models of the ERNIE 4.5 family, as an inspection of their checkpoints tells them. Pure."""

from typing import Any

from wenxin_operator.api.status import ModelFacts


def _model(**shape: Any) -> ModelFacts:
    return ModelFacts(vocab_size=103_424, context_length=131_072, dtype="bfloat16", head_dim=128, **shape)


PRESETS = {
    "ernie-4.5-0.3b": _model(
        architecture="Ernie4_5ForCausalLM",
        parameters=360_748_032,
        layers=18,
        hidden_size=1024,
        heads=16,
        kv_heads=2,
        intermediate_size=3072,
        tensor_parallel_sizes=(1, 2, 4, 8, 16),
        tied_head=True,
    ),
    "ernie-4.5-21b-a3b": _model(
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
    ),
    "ernie-4.5-300b-a47b": _model(
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
    ),
}
