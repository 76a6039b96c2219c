"""Every way in which configurations of the family have been written, read as transformers reads them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.released import DENSE_300M as DENSE
from tests.released import MOE_21B as MOE
from tests.released import MOE_300B
from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config
from wenxin_runtime.weights.names import active_parameters, expected_shapes

# What configurations of the first release carry besides; none of it changes a text model's mathematics.
OF_OLD = {
    "compression_ratio": 1.0,
    "moe_capacity": [64, 64, 64],
    "moe_gate": "top2",
    "moe_use_aux_free": True,
    "moe_aux_loss_lambda": 1e-5,
    "num_nextn_predict_layers": 1,
    "rope_scaling": None,
    "use_cache": False,
    "auto_map": {"AutoConfig": "configuration_ernie4_5_moe.Ernie4_5_MoeConfig"},
    "attention_probs_dropout_prob": 0.0,
}


def written(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def read(directory: Path, config: dict[str, Any]) -> ModelConfig:
    return read_model_config(written(directory, config))


def refusal(directory: Path, config: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(directory, config)
    return str(caught.value)


def peer_of(directory: Path, config: dict[str, Any]) -> Any:
    """What transformers makes of the same file, without memory for weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(written(directory, config))))


@pytest.mark.parametrize(
    ("released", "total", "active"),
    [(DENSE, 0.361, 0.361), (MOE, 21.83, 3.35), (MOE_300B, 299.5, 47.1)],
    ids=["0.3B", "21B-A3B", "300B-A47B"],
)
def test_a_released_model_has_the_tensors_and_parameters_that_transformers_gives_it(tmp_path, released, total, active):
    config = read(tmp_path, released)
    ours = expected_shapes(config)
    theirs = {
        name.replace("gate.moe_statics", "moe_statics"): tuple(parameter.shape)
        for name, parameter in peer_of(tmp_path, released).named_parameters()
    }
    fused = ".mlp.experts."  # in memory, all experts of a layer are one tensor there
    assert {name: shape for name, shape in ours.items() if fused not in name} == {
        name: shape for name, shape in theirs.items() if fused not in name
    }
    parameters = sum(map(math.prod, ours.values()))
    assert parameters == sum(map(math.prod, theirs.values()))
    assert parameters / 1e9 == pytest.approx(total, rel=1e-3)
    assert active_parameters(config) / 1e9 == pytest.approx(active, rel=2e-3)


@pytest.mark.parametrize(
    ("naming", "architecture"),
    [
        ({"architectures": ["Ernie4_5ForCausalLM"]}, "Ernie4_5ForCausalLM"),
        ({"architectures": ["Ernie4_5_ForCausalLM"]}, "Ernie4_5ForCausalLM"),
        ({"architectures": None, "model_type": "ernie4_5"}, "Ernie4_5ForCausalLM"),
        ({"architectures": ["Ernie4_5_MoeForCausalLM"]}, "Ernie4_5_MoeForCausalLM"),
        ({"architectures": [], "model_type": "ernie4_5_moe"}, "Ernie4_5_MoeForCausalLM"),
        ({"architectures": ["Unknown", "Ernie4_5_MoeForCausalLM"]}, "Ernie4_5_MoeForCausalLM"),
    ],
    ids=str,
)
def test_every_spelling_of_an_architecture_is_understood(tmp_path, naming, architecture):
    assert read(tmp_path, MOE | naming).architecture == architecture


@pytest.mark.parametrize("released", [DENSE, MOE, MOE_300B], ids=["0.3B", "21B-A3B", "300B-A47B"])
def test_fields_of_old_configurations_that_mean_nothing_change_nothing(tmp_path, released):
    assert read(tmp_path, OF_OLD | released) == read(tmp_path, released)


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["Ernie4_5_VLMoeForConditionalGeneration"], "model_type": "ernie4_5_moe_vl"},
        {"architectures": ["Ernie4_5_VLMoeForConditionalGeneration"], "model_type": "ernie4_5_vl_moe"},
        {"architectures": None, "model_type": "ernie4_5_vl_moe"},
        {"architectures": None, "model_type": "ernie4_5_moe_vl"},
        {"moe_num_experts": [64, 64], "moe_intermediate_size": [1536, 512]},
        {"moe_layer_start_index": [1, 1], "moe_layer_end_index": [29, 28]},
        {"vision_config": {"hidden_size": 1280}, "text_config": {}},
    ],
    ids=str,
)
def test_a_vision_language_model_is_refused_as_one_whatever_its_schema(tmp_path, change):
    assert "this is a vision-language model, and this release serves text models" in refusal(tmp_path, MOE | change)


def test_the_experts_are_understood_by_the_names_that_transformers_takes_for_the_same(tmp_path):
    renamed = {name: value for name, value in MOE.items() if name not in ("moe_num_experts", "moe_k")}
    renamed |= {"num_experts": 64, "num_experts_per_tok": 6}
    assert read(tmp_path, renamed) == read(tmp_path, MOE)
    assert peer_of(tmp_path, renamed | {"num_hidden_layers": 2}).config.moe_k == 6
    assert "num_experts_per_tok must be at most num_experts 64" in refusal(
        tmp_path, renamed | {"num_experts_per_tok": 65}
    )


@pytest.mark.parametrize(
    ("start", "end", "interval"),
    [(1, -1, 1), (0, -1, 1), (3, 53, 1), (1, 29, 1), (1, 4, 2), (0, 6, 3), (2, 5, 2), (5, 3, 1), (0, 0, 1)],
)
def test_the_layers_with_experts_are_those_of_transformers(tmp_path, start, end, interval):
    rule = {"moe_layer_start_index": start, "moe_layer_end_index": end, "moe_layer_interval": interval}
    config = MOE | {"num_hidden_layers": 7, **rule}
    ours = read(tmp_path, config).moe
    layers = peer_of(tmp_path, config).model.layers
    assert ours is not None
    assert ours.layers == {i for i, layer in enumerate(layers) if hasattr(layer.mlp, "experts")}


@pytest.mark.parametrize(
    ("released", "head_dim"), [(DENSE, "left out"), (DENSE, None), (DENSE, 64), (MOE, "left out"), (MOE, 64)], ids=str
)
def test_a_head_dim_that_is_not_written_is_what_transformers_takes(tmp_path, released, head_dim):
    config = {**released, "num_hidden_layers": 1, "head_dim": head_dim}
    if head_dim == "left out":
        del config["head_dim"]
    attention = peer_of(tmp_path, config).model.layers[0].self_attn
    assert read(tmp_path, config).head_dim == attention.head_dim


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_read_only_where_it_is_not_the_embedding(tmp_path, tied):
    assert ("lm_head.weight" in expected_shapes(read(tmp_path, DENSE | {"tie_word_embeddings": tied}))) is not tied


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"moe_k": 65}, "moe_k must be at most moe_num_experts 64"),
        ({"moe_num_experts": 0}, "moe_num_experts"),
        ({"moe_layer_end_index": -2}, "moe_layer_end_index"),
        ({"moe_layer_interval": 0}, "moe_layer_interval"),
        ({"moe_norm_min": 0}, "moe_norm_min"),
    ],
)
def test_an_impossible_mixture_is_refused_by_field(tmp_path, change, field):
    assert field in refusal(tmp_path, MOE | change)
