import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.engine_driver import Answer, engine_of, finish, submit
from tests.wenxin_runtime.models import peer

LONG = 1100  # prompts beyond 1,000 positions: shorter ones hide a wrong rotary layout (trap 5)


def prompt(length: int, seed: int = 0, vocab: int = peer.SMALL["vocab_size"]) -> list[int]:
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def assert_equals(answer: Answer, asked: list[int], model, tolerance: float = 2e-4) -> None:
    """Every prompt token's and every answer token's logprobs are the peer's, and each answer token is its argmax."""
    reference = peer.logprobs(model, asked + answer.token_ids)
    said = [*answer.deltas[0].prompt_logprobs[1:], *answer.logprobs]
    tokens = [*asked[1:], *answer.token_ids]
    assert answer.deltas[0].prompt_logprobs[0] is None
    assert len(said) == len(tokens)
    for row, (token, entry) in enumerate(zip(tokens, said, strict=True)):
        assert entry.logprob == pytest.approx(reference[row, token].item(), abs=tolerance)
        for alternative, logprob in entry.top:
            assert logprob == pytest.approx(reference[row, alternative].item(), abs=tolerance)
        assert entry.top[0][1] == pytest.approx(reference[row].max().item(), abs=tolerance)
    for row, token in enumerate(answer.token_ids, start=len(asked) - 1):
        assert token == reference[row].argmax().item()


def compare(directory, model, prompts: list[list[int]], max_tokens: int = 8, **flags) -> None:
    engine = engine_of(directory, **flags)
    wanted = [submit(str(i), p, max_tokens=max_tokens, logprobs=2, prompt_logprobs=1) for i, p in enumerate(prompts)]
    answers = finish(engine, wanted)
    for i, asked in enumerate(prompts):
        assert_equals(answers[str(i)], asked, model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_dim": 24},
        {"head_dim": 12, "num_attention_heads": 6},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4},
        {"tie_word_embeddings": False},
        {"use_bias": True},
        {"use_bias": True, "tie_word_embeddings": False, "head_dim": 32},
        {"rope_theta": 100.0},
        {"rms_norm_eps": 1e-2},
        {"num_hidden_layers": 1, "intermediate_size": 33},
        {"vocab_size": 301, "hidden_size": 50},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()) or "plain",
)
def test_logprobs_and_greedy_tokens_equal_transformers(tmp_path, changes):
    model = peer.make(tmp_path, seed=1, **changes)
    prompts = [prompt(length, seed=length) for length in (1, 17, LONG)]
    compare(tmp_path, model, prompts, max_num_batched_tokens=257)


@pytest.mark.parametrize("make", [peer.make, peer.make_moe], ids=["dense", "experts"])
def test_the_first_32_greedy_tokens_after_a_long_prompt_equal_what_transformers_generates(tmp_path, make):
    """Trap 4, behind trap 5's thousand positions."""
    model = make(tmp_path, seed=4)
    asked = prompt(LONG)
    ids = torch.tensor([asked])
    greedy = {"do_sample": False, "min_new_tokens": 32, "max_new_tokens": 32, "pad_token_id": 0}
    with torch.inference_mode():
        # Without a mask, generate takes the prompt's own zeros for padding.
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **greedy)
    # generate keeps EOS away for min_new_tokens; so does min_tokens.
    ours = finish(engine_of(tmp_path), [submit("a", asked, max_tokens=32, min_tokens=32, ignore_eos=False)])["a"]
    assert ours.token_ids == theirs[0, LONG:].tolist()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    heads=st.sampled_from([(1, 1), (2, 1), (6, 3), (8, 2), (5, 5)]),
    head_dim=st.integers(1, 24).map(lambda half: 2 * half),
    hidden=st.integers(9, 70),
    tied=st.booleans(),
    bias=st.booleans(),
    theta=st.sampled_from([10.0, 10_000.0, 500_000.0]),
    chunk=st.integers(4, 400),
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_configuration_batch_and_chunk_size_equals_transformers(
    tmp_path_factory, heads, head_dim, hidden, tied, bias, theta, chunk, lengths, seed
):
    directory = tmp_path_factory.mktemp("any")
    model = peer.make(
        directory,
        seed,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=head_dim,
        hidden_size=hidden,
        tie_word_embeddings=tied,
        use_bias=bias,
        rope_theta=theta,
    )
    prompts = [prompt(length, seed + i) for i, length in enumerate(lengths)]
    compare(directory, model, prompts, max_tokens=4, max_num_batched_tokens=chunk, max_num_seqs=4)


def test_a_head_dim_other_than_hidden_over_heads_shapes_the_output_projection(tmp_path):
    """Trap 14: on the 0.3B, 16 heads of 128 make 2048, and the hidden size is 1024."""
    model = peer.make(tmp_path, num_attention_heads=4, head_dim=24)
    assert model.model.layers[0].self_attn.o_proj.weight.shape == (48, 96)
    compare(tmp_path, model, [prompt(30)])


def test_neighbours_are_turned_as_pairs_and_not_halves(tmp_path):
    """Trap 5: with its q and k rows reordered to halves, the model must answer differently at long range."""
    model = peer.make(tmp_path / "pairs", rope_theta=10_000.0)
    heads = torch.arange(16).view(2, 8).T.flatten()
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                rows = projection.weight.view(-1, 16, projection.weight.shape[1])
                projection.weight.copy_(rows[:, heads].flatten(0, 1))
    model.save_pretrained(tmp_path / "halves")
    asked = prompt(LONG)
    answers = [
        finish(engine_of(tmp_path / kind), [submit("a", asked, max_tokens=1, prompt_logprobs=0)])["a"]
        for kind in ("pairs", "halves")
    ]
    scores = [[entry.logprob for entry in answer.last.prompt_logprobs[1:]] for answer in answers]
    assert max(abs(a - b) for a, b in zip(*scores, strict=True)) > 1


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 77.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
        {"rope_theta": 77.0, "rope_scaling": None},
        {"rope_theta": 1.0, "rope_parameters": {"rope_theta": 77.0}},
    ],
    ids=["hub", "transformers-5", "hub-with-null-scaling", "both"],
)
def test_every_spelling_of_the_rotary_base_is_understood(tmp_path, spelling):
    model = peer.make(tmp_path, rope_theta=77.0)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | spelling))
    compare(tmp_path, model, [prompt(200)])


def test_a_sharded_checkpoint_equals_the_model_it_was_saved_from(tmp_path):
    model = peer.make(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    compare(tmp_path / "shards", model, [prompt(20)])


def test_float16_and_bfloat16_files_run_in_float32(tmp_path):
    for dtype in (torch.float16, torch.bfloat16):
        peer.make(tmp_path / str(dtype), dtype=dtype)
        model = peer.load(tmp_path / str(dtype))
        compare(tmp_path / str(dtype), model, [prompt(20)], dtype="float32")
