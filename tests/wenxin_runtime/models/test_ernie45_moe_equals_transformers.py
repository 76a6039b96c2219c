import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Ernie4_5_MoeConfig
from transformers.models.ernie4_5_moe.modeling_ernie4_5_moe import Ernie4_5_MoeTopKRouter

from tests.wenxin_runtime.models import peer
from tests.wenxin_runtime.models.test_ernie45_equals_transformers import compare, prompt
from wenxin_runtime.kernels import Route, choose
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.weights import inspect


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


def routers(top_k: int, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, Route]:
    """The same router made by every implementation that this machine has."""
    implementations = (ReferenceKernels(), choose(torch.device("cpu"), torch.float32))
    return {type(kernels).__name__: kernels.router(weight, bias, top_k, 1e-12) for kernels in implementations}


def peers_route(top_k: int, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What transformers chooses, as a matrix of weights per expert: the order of the chosen ones says nothing."""
    config = Ernie4_5_MoeConfig(hidden_size=x.shape[1], moe_num_experts=len(weight), moe_k=top_k)
    router = Ernie4_5_MoeTopKRouter(config)
    router.weight.data, router.moe_statics.e_score_correction_bias.data = weight, bias
    _, weights, chosen = router(x)
    return dense_weights(chosen, weights, len(weight))


def dense_weights(chosen: torch.Tensor, weights: torch.Tensor, experts: int) -> torch.Tensor:
    return torch.zeros(len(chosen), experts, dtype=weights.dtype).scatter(1, chosen, weights)


@pytest.mark.parametrize(("experts", "top_k"), [(64, 6), (64, 8), (8, 1), (8, 8)])
@pytest.mark.parametrize("size", [0.0, 1e-3, 0.3, 100.0, 1e8], ids=lambda size: f"bias of {size:g}")
def test_a_correction_bias_of_any_size_moves_the_selection_and_never_the_weights(experts, top_k, size):
    """Traps 1 and 2: ports that drop the bias, let it leak into the weights, or subtract it again and get NaN."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((50, 32), (experts, 32), (1, experts)))
    for kind, route in routers(top_k, weight, bias * size).items():
        chosen, weights = route(x)
        expected = peers_route(top_k, weight, bias * size, x)
        torch.testing.assert_close(dense_weights(chosen, weights, experts), expected, msg=kind)
        scores = (x @ weight.T).softmax(-1).gather(1, chosen)
        torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True), msg=kind)


def test_a_bias_on_one_expert_sends_every_token_there():
    x, weight, pushed = torch.randn(50, 16), torch.randn(8, 16), torch.zeros(1, 8)
    pushed[0, 5] = 100.0
    for route in routers(2, weight, pushed).values():
        assert (route(x)[0] == 5).any(dim=1).all()


def test_a_dropped_correction_bias_would_be_noticed(tmp_path):
    """Trap 1: what `compare` holds us to tells a model from the same one without its bias."""
    model = peer.make_moe(tmp_path)
    asked = prompt(50)
    with_bias = peer.logprobs(model, asked)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.gate.moe_statics.e_score_correction_bias.zero_()
    assert (peer.logprobs(model, asked) - with_bias).abs().max() > 1


def test_a_token_of_nan_gets_valid_experts_and_leaves_its_neighbours_alone():
    x, weight, bias = torch.randn(5, 16), torch.randn(8, 16), torch.randn(1, 8)
    broken = x.clone()
    broken[2] = torch.nan
    healthy = [0, 1, 3, 4]
    for kind, route in routers(3, weight, bias).items():
        chosen, weights = route(broken)
        assert ((chosen >= 0) & (chosen < 8)).all(), kind
        assert weights[2].isnan().all(), kind
        expected = [part[healthy] for part in route(x)]
        assert torch.equal(chosen[healthy], expected[0]), kind
        assert torch.equal(weights[healthy], expected[1]), kind


def test_the_router_works_in_float32_in_a_bfloat16_model():
    """Trap 16: near ties, a score rounded to bfloat16 chooses another expert."""
    x = torch.randn(20, 64).bfloat16()
    weight, bias = torch.randn(64, 64), torch.randn(1, 64) * 1e-3
    for route in routers(6, weight, bias).values():
        chosen, weights = route(x)
        expected = peers_route(6, weight, bias, x.float())
        assert torch.equal(dense_weights(chosen, weights, 64) > 0, expected > 0)
        assert weights.dtype == torch.bfloat16


def test_the_end_index_of_the_hub_that_means_the_last_layer_is_understood(tmp_path):
    """transformers writes the index itself into the files that it saves."""
    model = peer.make_moe(tmp_path, num_hidden_layers=4)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["moe_layer_end_index"] == 3
    path.write_text(json.dumps(config | {"moe_layer_end_index": -1}))
    compare(tmp_path, model, [prompt(30)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gate_and_a_bias_that_are_stored_in_half_precision_are_used_in_float32(tmp_path, dtype):
    peer.make_moe(tmp_path, dtype=dtype)
    assert load_file(tmp_path / "model.safetensors")["model.layers.1.mlp.gate.weight"].dtype == dtype
    compare(tmp_path, peer.load(tmp_path), [prompt(40)], dtype="float32")


@pytest.mark.parametrize("projection", [(48, 96), (96, 48)], ids=["as released for the 21B", "transposed, as the 300B"])
def test_the_weights_of_an_unused_mtp_head_are_no_obstacle(tmp_path, projection):
    """Trap 6: the 300B's projection was published the wrong way round."""
    model = peer.make_moe(tmp_path)
    head = {
        "model.mtp_block.0.input_layernorm.weight": torch.ones(48),
        "model.mtp_block.0.self_attn.q_proj.weight": torch.ones(64, 48),
        "model.mtp_block.0.mlp.gate_proj.weight": torch.ones(80, 48),
        "model.mtp_emb_norm.0.weight": torch.ones(48),
        "model.mtp_hidden_norm.0.weight": torch.ones(48),
        "model.mtp_linear_proj.0.weight": torch.ones(projection),
    }
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), **head}, file)
    assert inspect(tmp_path).parameters == sum(parameter.numel() for parameter in model.parameters())
    compare(tmp_path, model, [prompt(20)])
