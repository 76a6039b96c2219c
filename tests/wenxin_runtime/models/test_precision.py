"""How far from exact: docs/fidelity.md states these bounds and says why they are what they are."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.wenxin_runtime.engine_driver import engine_of, finish, submit
from tests.wenxin_runtime.models import peer
from tests.wenxin_runtime.models.test_ernie45_equals_transformers import prompt
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.kernels import choose

VOCAB = peer.SMALL["vocab_size"]
TOKENS = prompt(180, seed=3)

WIDE = {"hidden_size": 192, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 6}
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dense": (peer.make, {}),
    "dense, untied, biases, other head_dim": (
        peer.make,
        {"use_bias": True, "tie_word_embeddings": False, "head_dim": 32},
    ),
    "dense, one kv head, other base": (peer.make, {"num_key_value_heads": 1, "rope_theta": 100.0}),
    "dense, wide and deep": (peer.make, WIDE),
    "experts": (peer.make_moe, {}),
    "64 experts, 6 of them": (peer.make_moe, {"moe_num_experts": 64, "moe_k": 6}),
    "64 experts, 8 of them, none shared": (
        peer.make_moe,
        {"moe_num_experts": 64, "moe_k": 8, "moe_num_shared_experts": 0},
    ),
    "one expert of 8": (peer.make_moe, {"moe_k": 1}),
    "all experts, biases, untied": (peer.make_moe, {"moe_k": 8, "use_bias": True, "tie_word_embeddings": False}),
    "scaled down mixture": (peer.make_moe, {"moe_norm_min": 10.0}),
    "experts, wide and deep": (peer.make_moe, WIDE | {"moe_num_experts": 32, "moe_k": 6, "moe_intermediate_size": 96}),
}
EACH = pytest.mark.parametrize("name", CONFIGS)

# Bounds on the error of a logit, as a share of the logits' own deviation and of sqrt(layers + 1).
BOUND = {"float32": 2.0**-20, "float16": 2.5 * 2.0**-11, "bfloat16": 2.5 * 2.0**-8, "int8": 5 * 2.0**-8}
# Least share of positions at which the most likely token is the same.
AGREEMENT = {"float32": 1.0, "float16": 0.97, "bfloat16": 0.93, "int8": 0.9}


@dataclass(frozen=True)
class Reference:
    """One checkpoint in bfloat16, and what transformers makes of it. Distributions are log p, [positions, vocab]."""

    directory: Path
    layers: int
    exact: Tensor

    def peers(self, dtype: torch.dtype) -> Tensor:
        return peer.logprobs(peer.load(self.directory, dtype), TOKENS)[:-1]

    def ours(self, **flags: Any) -> Tensor:
        """What the engine answers, as prompt logprobs over the whole vocabulary."""
        wanted = submit("a", TOKENS, max_tokens=1, prompt_logprobs=VOCAB)
        entries = finish(engine_of(self.directory, **flags), [wanted])["a"].deltas[0].prompt_logprobs[1:]
        ids, values = (torch.tensor([[pair[i] for pair in entry.top] for entry in entries]) for i in (0, 1))
        return torch.empty(len(entries), VOCAB).scatter(1, ids, values)

    def errors(self, found: Tensor) -> Tensor:
        """Per position, the difference of the logits as a share of their deviation.

        A constant that is added to all logits of a position says nothing, so both are centred first.
        """
        difference = found - self.exact
        return difference.std(dim=-1, correction=0) / self.exact.std(dim=-1, correction=0)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def made(name: str) -> Reference:
        directory = tmp_path_factory.mktemp("model")
        make, changes = CONFIGS[name]
        layers = make(directory, seed=1, dtype=torch.bfloat16, **changes).config.num_hidden_layers
        return Reference(directory, layers, peer.logprobs(peer.load(directory), TOKENS)[:-1])

    return made


def check(reference: Reference, found: Tensor, kind: str) -> None:
    """The median position is within the bound, few are far outside, and answers stay what they were.

    The median, because a near tie in a router sends a few tokens to another expert: theirs is not a rounding error.
    """
    bound = BOUND[kind] * math.sqrt(reference.layers + 1)
    errors = reference.errors(found)
    assert errors.median() < bound
    assert (errors > 4 * bound).float().mean() < (1e-9 if kind == "float32" else 0.1)
    divergence = (reference.exact.exp() * (reference.exact - found)).sum(-1)
    deviation = reference.exact.std(dim=-1).mean()
    assert divergence.median() < (bound * deviation) ** 2 / 2 + 1e-6
    agreement = (found.argmax(-1) == reference.exact.argmax(-1)).float().mean()
    assert agreement >= AGREEMENT[kind]


@EACH
def test_float32_differs_from_transformers_by_the_order_of_sums_alone(reference, name):
    case = reference(name)
    check(case, case.ours(dtype="float32"), "float32")


@EACH
def test_bfloat16_is_within_its_bound_and_no_worse_than_transformers_bfloat16(reference, name):
    case = reference(name)
    ours, theirs = case.ours(dtype="bfloat16"), case.peers(torch.bfloat16)
    check(case, ours, "bfloat16")
    assert case.errors(ours).median() < 1.25 * case.errors(theirs).median()


@pytest.mark.parametrize("name", ["dense", "experts"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_reference_kernels_keep_to_the_same_bounds(reference, name, dtype, monkeypatch):
    monkeypatch.setenv("WENXIN_KERNELS", "reference")
    case = reference(name)
    ours, theirs = case.ours(dtype=dtype), case.peers(getattr(torch, dtype))
    check(case, ours, dtype)
    assert case.errors(ours).median() < 1.25 * case.errors(theirs).median()


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in CONFIGS), ("dense", "bfloat16"), ("experts", "bfloat16")]
)
def test_int8_weights_are_within_their_bound(reference, name, dtype):
    try:
        choose(torch.device("cpu"), getattr(torch, dtype), "int8")
    except ConfigError as error:
        pytest.skip(str(error))
    case = reference(name)
    check(case, case.ours(dtype=dtype, quantization="int8"), "int8")
