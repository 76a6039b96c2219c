"""Which GPUs a model fits. tests/contract/test_fit.py holds the bytes to what the runtime allocates."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.contract.inspected import INSPECTED
from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator import fit
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.cli.__main__ import main
from wenxin_operator.names import API_VERSION, WENXIN_MODEL
from wenxin_operator.plan.acceptance import unsuitable
from wenxin_operator.presets import PRESETS
from wenxin_operator.target import VerifiedModel

A100_80, A100_40 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-SXM4-40GB"


def smallest(model: str, card: str, **demand: Any) -> int | None:
    wanted = fit.Demand(**{"context": 8192} | demand)
    return next((each.tensor for each in fit.layouts(PRESETS[model], wanted, fit.CARDS[card]) if each.fits), None)


@pytest.mark.parametrize(
    ("model", "card", "demand", "gpus"),
    [
        ("ernie-4.5-0.3b", "T4", {}, 1),
        ("ernie-4.5-21b-a3b", "A100-80", {}, 1),
        ("ernie-4.5-21b-a3b", "A100-40", {}, 2),
        ("ernie-4.5-21b-a3b", "A100-40", {"quantization": "int8"}, 1),
        ("ernie-4.5-21b-a3b", "T4", {"context": 131_072, "concurrency": 8}, None),
        ("ernie-4.5-300b-a47b", "H200", {}, 8),
        ("ernie-4.5-300b-a47b", "A100-80", {}, 16),
        ("ernie-4.5-300b-a47b", "A100-80", {"quantization": "int8"}, 8),
        ("ernie-4.5-300b-a47b", "H200", {"dtype": "float32"}, 16),
    ],
)
def test_the_smallest_number_of_gpus_is_known(model: str, card: str, demand: dict[str, Any], gpus: int | None) -> None:
    assert smallest(model, card, **demand) == gpus


def test_what_is_left_is_counted_in_whole_sequences() -> None:
    demand = fit.Demand(context=8192, concurrency=8)
    found = fit.layout(PRESETS["ernie-4.5-21b-a3b"], demand, fit.CARDS["A100-80"], 1)
    left = int(80 * fit.GIB * fit.UTILIZATION) - found.footprint.fixed
    assert found.concurrency == left // (8192 * 56 * 1024)  # 56 KiB of keys and values per token
    assert found.missing == 0


def test_more_ranks_than_key_value_heads_gain_no_cache() -> None:
    facts, demand = PRESETS["ernie-4.5-0.3b"], fit.Demand(8192)
    assert fit.footprint(facts, demand, 2).kv_per_token == fit.footprint(facts, demand, 8).kv_per_token


@pytest.mark.parametrize(
    ("product", "card"),
    [
        (A100_80, "A100-80"),
        (A100_40, "A100-40"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H200", "H200"),
        ("Tesla-T4", "T4"),
        ("Tesla-V100-SXM2-32GB", "V100-32"),
        ("NVIDIA-A800-SXM4-80GB", "A800"),
    ],
)
def test_cards_are_known_by_the_label_that_feature_discovery_gives_them(product: str, card: str) -> None:
    assert fit.card_bytes(product) == fit.CARDS[card]


def test_a_card_that_is_not_known_is_not_judged() -> None:
    assert fit.card_bytes("NVIDIA-GeForce-RTX-5090") is None
    assert judge("ernie-4.5-300b-a47b", products=["NVIDIA-GeForce-RTX-5090"]) is None


def judge(model: str, products: list[str], facts: dict[str, Any] | None = None, **fields: Any) -> str | None:
    spec = DeploymentSpec.model_validate(
        {"model": {"ref": "m"}, "accelerator": {"products": products}, "maxModelLen": 8192} | fields
    )
    found = PRESETS[model].model_copy(update=facts or {})
    refusal = unsuitable(spec, VerifiedModel("m", "pvc://c/m", "sha256:1", found))
    return f"{refusal.reason}: {refusal}" if refusal else None


def test_a_model_that_does_not_fit_is_refused_with_what_is_missing_and_what_would_do() -> None:
    assert judge("ernie-4.5-21b-a3b", [A100_80]) is None
    refusal = judge("ernie-4.5-21b-a3b", [A100_40])
    assert refusal is not None
    assert refusal.startswith("DoesNotFit: model m with 8192 tokens of context lacks 7.")
    assert refusal.endswith("GiB on each of 1 GPUs of 40 GiB; spec.parallelism.tensor: 2 fits")


def test_the_smallest_of_the_named_cards_decides() -> None:
    assert "of 40 GiB" in str(judge("ernie-4.5-21b-a3b", [A100_80, A100_40]))


def test_where_no_number_of_gpus_is_enough_that_is_said() -> None:
    assert "no number of these GPUs in one node fits" in str(
        judge("ernie-4.5-21b-a3b", ["Tesla-T4"], maxModelLen=131_072, facts={"layers": 280})
    )


def test_a_size_that_does_not_divide_the_model_is_refused_with_those_that_do() -> None:
    assert judge("ernie-4.5-21b-a3b", [], parallelism={"tensor": 8}) == (
        "TensorSizeUneven: spec.parallelism.tensor: 8 does not divide model m; 1, 2, 4 do"
    )


@pytest.mark.parametrize(
    ("model", "facts", "why"),
    [
        ("ernie-4.5-0.3b", {}, "model m has no experts"),
        ("ernie-4.5-21b-a3b", {"experts": 62}, "model m has 62 experts, which 4 does not divide"),
    ],
)
def test_experts_that_cannot_be_spread_are_refused(model: str, facts: dict[str, Any], why: str) -> None:
    refusal = judge(model, [], facts=facts, parallelism={"tensor": 4, "expert": True})
    assert refusal == f"ExpertsUneven: spec.parallelism.expert: {why}"


def test_weights_that_an_older_runtime_has_inspected_are_believed() -> None:
    older = {"heads": 0, "tensor_parallel_sizes": ()}
    assert judge("ernie-4.5-300b-a47b", [A100_40], facts=older, parallelism={"tensor": 8, "expert": True}) is None


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, arguments, {})


async def test_a_released_model_is_judged_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("fit", "ernie-4.5-21b-a3b", "--concurrency", "8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ernie-4.5-21b-a3b: bfloat16, 8 x 8192 tokens at the same time"
    cards = {line.split()[0]: line.split() for line in lines[3:]}
    assert set(cards) == set(fit.CARDS)
    assert cards["A100-80"] == ["A100-80", "1", "40.7", "GiB", "0.9", "GiB", "29.5", "GiB", "67"]


async def test_a_model_that_fits_nothing_fails_the_command_and_says_by_how_much(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await run("fit", "ernie-4.5-300b-a47b", "--context", "131072", "--concurrency", "400") == 1
    assert "H200      -     16 GPUs lack " in capsys.readouterr().out


async def test_a_model_of_the_cluster_is_judged_by_its_inspection(
    api: FakeApi, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {
        "apiVersion": API_VERSION,
        "kind": WENXIN_MODEL,
        "metadata": {"name": "mine", "namespace": "here"},
        "spec": {"source": "pvc://weights/mine"},
    }
    await api.put(model)
    where = ("-n", "here", "--kubeconfig", str(kubeconfig))
    assert await run("fit", "mine", *where) == 2
    assert "has not been inspected yet" in capsys.readouterr().err
    facts = ModelFacts.model_validate(INSPECTED).model_dump(mode="json", by_alias=True, exclude_none=True)
    await api.put({**model, "status": {"digest": "sha256:1", "facts": facts}}, status=True)
    assert await run("fit", "mine", *where) == 0
    assert capsys.readouterr().out.startswith("mine: bfloat16, 1 x 8192 tokens")
    assert await run("fit", "other", *where) == 2
    assert "other is neither one of ernie-4.5-0.3b" in capsys.readouterr().err
