import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.wenxin_runtime.models import peer
from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.weights import inspect, open_checkpoint
from wenxin_runtime.weights.loading import CheckpointSource

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    peer.make(directory)
    return directory


@pytest.fixture
def checkpoint(saved, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(directory: Path, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory)
    return str(caught.value)


def shard(directory: Path) -> dict:
    """Turn the one file into two shards with an index; returns the index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1-of-2.safetensors": names[:5], "model-2-of-2.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_a_saved_model_is_opened_with_every_tensor_it_reads(saved):
    checkpoint = open_checkpoint(saved)
    assert set(checkpoint.tensors) == set(load_file(saved / "model.safetensors")) - {"lm_head.weight"}
    assert checkpoint.dtype == "float32"


def test_shards_and_one_file_hold_the_same(saved, checkpoint):
    shard(checkpoint)
    assert open_checkpoint(checkpoint).tensors.keys() == open_checkpoint(saved).tensors.keys()


def test_what_is_no_directory_is_named(tmp_path):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is not a directory" in refusal(tmp_path / "file")


def test_a_directory_without_config_says_which_directory_is_wanted(tmp_path):
    assert "config.json is missing; give the directory" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_a_broken_config_asks_for_a_new_download(checkpoint, content):
    (checkpoint / "config.json").write_bytes(content.encode("latin-1"))
    assert "config.json" in refusal(checkpoint)
    assert "download it again" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        (
            {"architectures": ["LlamaForCausalLM"]},
            "is not served by this release; it serves Ernie4_5ForCausalLM",
        ),
        ({"architectures": None, "model_type": "bert"}, "is not served by this release"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config (gptq) is not served"),
        ({"quantization_config": "wint4"}, "use the unquantised checkpoint"),
        ({"hidden_act": "gelu"}, "hidden_act must be silu, got 'gelu'"),
        ({"compression_ratio": 2.0}, "compression_ratio must be 1.0"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling must be of type default"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_parameters must be of type default"),
        ({"num_attention_heads": 5, "num_key_value_heads": 2}, "num_key_value_heads must divide"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"hidden_size": "large"}, "hidden_size must be a positive whole number, got 'large'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive whole number"),
        ({"vocab_size": True}, "vocab_size must be a positive whole number"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be a positive number"),
        ({"rope_parameters": None, "rope_theta": "x"}, "rope_theta must be a positive number"),
        ({"dtype": "int4"}, "dtype must be one of float32, bfloat16, float16"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id or a list"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_a_config_that_cannot_be_served_is_refused_by_field(checkpoint, changes, said):
    (checkpoint / "generation_config.json").unlink(missing_ok=True)
    edit_config(checkpoint, **changes)
    assert said in refusal(checkpoint)
    assert "config.json" in refusal(checkpoint)


def test_defaults_of_transformers_fill_what_old_configs_leave_out(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    for name in ("rope_parameters", "use_bias", "tie_word_embeddings", "rms_norm_eps", "dtype"):
        config.pop(name, None)
    (checkpoint / "config.json").write_text(json.dumps(config))
    found = open_checkpoint(checkpoint)
    assert (found.config.rope_theta, found.config.use_bias, found.config.tie_word_embeddings) == (
        500_000.0,
        False,
        True,
    )
    assert found.dtype == "float32"  # that of the tensors


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [(7, 2, (7,)), ([7, 8], 2, (7, 8)), (None, 2, (2,)), (None, [2, 5], (2, 5)), (None, None, ())],
)
def test_eos_comes_from_the_generation_config_first_as_one_id_or_a_list(checkpoint, generation, config, wanted):
    edit_config(checkpoint, eos_token_id=config)
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert open_checkpoint(checkpoint).config.eos_token_ids == wanted


@pytest.mark.parametrize(
    "rename", ["ernie.{}", "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.up_gate_proj.weight"]
)
def test_paddle_names_are_recognised(checkpoint, rename):
    edit_tensors(checkpoint, lambda tensors: tensors.update({rename.format(Q_PROJ): tensors.pop(Q_PROJ)}))
    assert "this is the Paddle layout" in refusal(checkpoint)
    assert "-PT" in refusal(checkpoint)


def test_paddle_shapes_are_recognised_behind_torch_names(checkpoint):
    edit_tensors(checkpoint, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].T.contiguous()}))
    assert f"this is the Paddle layout (tensor {Q_PROJ}, by shape [48, 64])" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model_state.pdparams", "Paddle weights"),
        ("pytorch_model.bin", "save the model again with save_pretrained"),
        ("model.gguf", "GGUF"),
        ("readme.txt", "neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_other_formats_are_told_apart(checkpoint, file, said):
    (checkpoint / "model.safetensors").rename(checkpoint / file)
    assert said in refusal(checkpoint)


def test_a_truncated_file_says_how_much_is_missing(checkpoint):
    path = checkpoint / "model.safetensors"
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.truncate(size - 100)
    assert f"model.safetensors is truncated: {size - 100} bytes of {size}; download it again" in refusal(checkpoint)


@pytest.mark.parametrize("kept", [0, 5, 8, 300])
def test_a_file_cut_within_its_header_is_truncated_too(checkpoint, kept):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated" in refusal(checkpoint)


@pytest.mark.parametrize("header", [b"not json!", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"[]      "])
def test_a_malformed_header_asks_for_a_new_download(checkpoint, header):
    (checkpoint / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "malformed safetensors header" in refusal(checkpoint)


def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_refused(checkpoint):
    header = b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'
    (checkpoint / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "tensor a of shape [3] has 8 bytes" in refusal(checkpoint)


def test_quantised_tensors_are_refused_by_their_dtype(checkpoint):
    edit_tensors(checkpoint, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].to(torch.int8)}))
    assert f"tensor {Q_PROJ} is stored as I8" in refusal(checkpoint)


def test_a_missing_shard_is_named(checkpoint):
    shard(checkpoint)
    (checkpoint / "model-2-of-2.safetensors").unlink()
    assert "1 of 2 shards are missing: model-2-of-2.safetensors" in refusal(checkpoint)


def test_an_index_that_promises_more_than_the_shards_hold_is_refused(checkpoint):
    index = shard(checkpoint)
    index["weight_map"]["model.ghost.weight"] = "model-1-of-2.safetensors"
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names tensors that no shard holds: model.ghost.weight" in refusal(checkpoint)


def test_an_index_without_a_weight_map_is_refused(checkpoint):
    (checkpoint / "model.safetensors.index.json").write_text('{"metadata": {}}')
    assert "has no weight_map" in refusal(checkpoint)


def test_a_missing_tensor_is_named(checkpoint):
    edit_tensors(checkpoint, lambda tensors: tensors.pop(Q_PROJ))
    assert f"1 of 20 tensors are missing, first {Q_PROJ}" in refusal(checkpoint)


def test_an_unexpected_tensor_is_named(checkpoint):
    edit_tensors(checkpoint, lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}))
    assert "unexpected tensor model.extra.weight" in refusal(checkpoint)


def test_tensors_that_nothing_reads_yet_may_be_there(checkpoint):
    unread = ("model.mtp_block.0.mlp.up_proj.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight")
    edit_tensors(checkpoint, lambda tensors: tensors.update({name: torch.zeros(2) for name in unread}))
    assert not set(unread) & set(open_checkpoint(checkpoint).tensors)


def test_a_wrong_shape_is_told_with_both_shapes(checkpoint):
    edit_tensors(checkpoint, lambda tensors: tensors.update({Q_PROJ: torch.zeros(60, 48)}))
    assert f"tensor {Q_PROJ} has shape [60, 48]; config.json wants [64, 48]" in refusal(checkpoint)


def test_a_directory_that_may_not_be_read_is_an_error_of_the_checkpoint(checkpoint, monkeypatch):
    def denied(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", denied)  # root, which tests may run as, is denied nothing
    assert "cannot be read: [Errno 13] Permission denied" in refusal(checkpoint)


def test_inspect_tells_the_agreed_facts(saved):
    facts = inspect(saved)
    parameters = sum(t.numel() for n, t in load_file(saved / "model.safetensors").items() if n != "lm_head.weight")
    assert (facts.parameters, facts.bytes) == (parameters, 4 * parameters)
    assert (facts.architecture, facts.layers, facts.hidden_size) == ("Ernie4_5ForCausalLM", 2, 48)
    assert (facts.context_length, facts.vocab_size, facts.dtype) == (4096, 300, "float32")


def test_inspect_needs_no_torch(saved):
    code = "import sys, wenxin_runtime.weights as w; w.inspect(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True, timeout=60)


def test_loading_reports_every_byte_once_and_ends_at_the_total(saved):
    checkpoint = open_checkpoint(saved)
    reports = []
    source = CheckpointSource(checkpoint, torch.device("cpu"), torch.bfloat16, lambda *report: reports.append(report))
    for name in [*checkpoint.tensors, "model.embed_tokens.weight"]:
        assert source(name).dtype == torch.bfloat16
    assert reports[-1] == (checkpoint.bytes, checkpoint.bytes)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})


def test_tensors_outlive_their_file(checkpoint):
    wanted = load_file(checkpoint / "model.safetensors")[Q_PROJ].clone()
    source = CheckpointSource(open_checkpoint(checkpoint), torch.device("cpu"), torch.float32)
    found = [source(Q_PROJ), source.stored(Q_PROJ)]
    with (checkpoint / "model.safetensors").open("rb+") as file:
        file.truncate(0)  # reading a mapped page now would be a bus error
    assert all(torch.equal(tensor, wanted) for tensor in found)
