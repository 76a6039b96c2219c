import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

from tests.wenxin_runtime.models import peer
from tests.wenxin_runtime.models.test_ernie45_equals_transformers import compare, prompt
from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.layers.moe import Router
from wenxin_runtime.weights import inspect
from wenxin_runtime.weights.model_config import read_model_config
from wenxin_runtime.weights.names import expected_shapes

RELEASED_300B = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "model_type": "ernie4_5_moe",
    "vocab_size": 103424,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 54,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "moe_num_experts": 64,
    "moe_k": 8,
    "moe_intermediate_size": 3584,
    "moe_num_shared_experts": 0,
    "moe_layer_start_index": 3,
    "moe_layer_end_index": 53,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"moe_num_experts": 64, "moe_k": 6},
        {"moe_num_experts": 64, "moe_k": 8, "moe_num_shared_experts": 0},
        {"moe_k": 1},
        {"moe_k": 8},
        {"moe_num_shared_experts": 1, "use_bias": True, "tie_word_embeddings": False},
        {"num_hidden_layers": 5, "moe_layer_start_index": 1, "moe_layer_end_index": 3, "moe_layer_interval": 2},
        {"moe_layer_start_index": 0, "moe_layer_end_index": 1},
        {"use_bias": True},
        {"moe_norm_min": 10.0},
        {"head_dim": 24, "rope_theta": 100.0},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()) or "plain",
)
def test_logprobs_and_greedy_tokens_equal_transformers(tmp_path, changes):
    model = peer.make_moe(tmp_path, seed=1, **changes)
    compare(tmp_path, model, [prompt(length, seed=length) for length in (1, 17, 300)], max_num_batched_tokens=97)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    experts=st.integers(1, 12),
    share=st.floats(0, 1),
    width=st.integers(1, 10).map(lambda four: 4 * four),  # the grouped product of the peer wants rows of 16 bytes
    shared=st.integers(0, 3),
    interval=st.integers(1, 3),
    start=st.integers(0, 3),
    chunk=st.integers(4, 64),
)
def test_any_mixture_in_chunks_of_any_size_equals_transformers(
    tmp_path_factory, experts, share, width, shared, interval, start, chunk
):
    directory = tmp_path_factory.mktemp("moe")
    model = peer.make_moe(
        directory,
        moe_num_experts=experts,
        moe_k=1 + int(share * (experts - 1)),
        moe_intermediate_size=width,
        moe_num_shared_experts=shared,
        moe_layer_interval=interval,
        moe_layer_start_index=start,
    )
    compare(
        directory, model, [prompt(5), prompt(70, seed=2)], max_tokens=3, max_num_seqs=4, max_num_batched_tokens=chunk
    )


def test_a_correction_bias_moves_the_selection_and_never_the_weights():
    """Trap 1 and 2: a port that drops the bias, or lets it leak into the weights."""
    x, weight = torch.randn(50, 16), torch.randn(8, 16)
    pushed = torch.zeros(1, 8)
    pushed[0, 5] = 100.0
    chosen, weights = Router(weight, pushed, top_k=2, norm_min=1e-12)(x)
    assert (chosen[:, 0] == 5).all()
    scores = (x @ weight.T).softmax(-1).gather(1, chosen)
    torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True))


def test_the_router_works_in_float32_in_a_bfloat16_model():
    x = torch.randn(20, 64).bfloat16()
    weight, bias = torch.randn(64, 64), torch.randn(1, 64) * 1e-3
    chosen, weights = Router(weight, bias, top_k=6, norm_min=1e-12)(x)
    scores = (x.float() @ weight.T).softmax(-1)
    assert torch.equal(chosen, (scores + bias).topk(6).indices)
    assert weights.dtype == torch.bfloat16


def test_the_300b_counts_its_parameters_as_transformers_does_on_the_meta_device(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RELEASED_300B))
    shapes = expected_shapes(read_model_config(tmp_path))
    with torch.device("meta"):
        theirs = Ernie4_5_MoeForCausalLM(Ernie4_5_MoeConfig(**RELEASED_300B))
    ours = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert ours == sum(parameter.numel() for parameter in theirs.parameters())
    assert round(ours / 1e9, 1) == 299.5


def test_weights_of_an_unused_mtp_head_are_no_obstacle(tmp_path):
    model = peer.make_moe(tmp_path)
    state = {**model.state_dict(), "model.mtp_block.0.input_layernorm.weight": torch.ones(48)}
    model.save_pretrained(tmp_path, state_dict=state)
    assert inspect(tmp_path).architecture == "Ernie4_5_MoeForCausalLM"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"moe_k": 9}, "moe_k"),
        ({"moe_num_experts": 0}, "moe_num_experts"),
        ({"moe_layer_end_index": -2}, "moe_layer_end_index"),
    ],
)
def test_an_impossible_mixture_is_refused_by_field(tmp_path, change, field):
    (tmp_path / "config.json").write_text(json.dumps({**RELEASED_300B, "moe_num_experts": 8} | change))
    with pytest.raises(CheckpointError, match=field):
        read_model_config(tmp_path)
