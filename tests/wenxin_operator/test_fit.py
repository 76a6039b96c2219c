"""Which GPUs a model fits. tests/contract/test_fit.py holds the bytes to what the runtime allocates."""

import asyncio
import json
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


UNSETTLED = fit.Settled()


def best(model: str, card: str, settled: fit.Settled = UNSETTLED, **demand: Any) -> fit.Layout | None:
    """The smallest layout that does."""
    wanted = fit.Demand(**{"context": 8192} | demand)
    found = fit.judged(PRESETS[model], wanted, fit.CARDS[card], settled)
    return next((each.layout for each in found if each.fits), None)


@pytest.mark.parametrize(
    ("model", "card", "demand", "layout"),
    [
        ("ernie-4.5-0.3b", "T4", {}, fit.Layout()),
        ("ernie-4.5-21b-a3b", "A100-80", {}, fit.Layout()),
        ("ernie-4.5-21b-a3b", "A100-40", {}, fit.Layout(2)),
        ("ernie-4.5-21b-a3b", "A100-40", {"quantization": "int8"}, fit.Layout()),
        ("ernie-4.5-21b-a3b", "V100-16", {}, fit.Layout(4)),
        ("ernie-4.5-21b-a3b", "T4", {"concurrency": 100}, fit.Layout(4, 2, expert=True)),
        ("ernie-4.5-21b-a3b", "T4", {"context": 131_072, "concurrency": 200}, None),
        ("ernie-4.5-300b-a47b", "H200", {}, fit.Layout(8)),
        ("ernie-4.5-300b-a47b", "A100-80", {}, fit.Layout(16, nodes=2)),
        ("ernie-4.5-300b-a47b", "A100-80", {"quantization": "int8"}, fit.Layout(8)),
        ("ernie-4.5-300b-a47b", "A100-40", {}, fit.Layout(32, nodes=4)),
        ("ernie-4.5-300b-a47b", "H200", {"dtype": "float32"}, fit.Layout(16, nodes=2)),
    ],
)
def test_the_smallest_layout_is_known(model: str, card: str, demand: dict[str, Any], layout: fit.Layout | None) -> None:
    assert best(model, card, **demand) == layout


def test_what_is_settled_is_kept() -> None:
    model, card = "ernie-4.5-21b-a3b", "A100-80"
    assert best(model, card, fit.Settled(tensor=2)) == fit.Layout(2)
    assert best(model, card, fit.Settled(data=4)) == fit.Layout(1, 4, expert=True)
    assert best(model, card, fit.Settled(data=4, expert=False)) == fit.Layout(1, 4)
    assert best(model, card, fit.Settled(nodes=2)) == fit.Layout(2, nodes=2)
    copies = fit.Settled(tensor=4, expert=True, redundant_experts=8)
    assert best(model, card, copies) == fit.Layout(4, expert=True, redundant_experts=8)


def test_no_more_gpus_of_a_node_are_taken_than_it_has() -> None:
    model, card = "ernie-4.5-300b-a47b", "A100-80"
    assert best(model, card, fit.Settled(gpus_of_a_node=16)) == fit.Layout(16)
    assert best(model, card, fit.Settled(gpus_of_a_node=4)) == fit.Layout(16, nodes=4)
    assert best(model, card, fit.Settled(tensor=16, nodes=1)) is None


@pytest.mark.parametrize(
    ("layout", "even"),
    [
        (fit.Layout(4), True),
        (fit.Layout(8), False),
        (fit.Layout(4, 16, expert=True), True),
        (fit.Layout(4, 32, expert=True), False),
        (fit.Layout(4, 2, expert=True, redundant_experts=8), True),
        (fit.Layout(4, 2, expert=True, redundant_experts=4), False),
        (fit.Layout(4, 1, nodes=3), False),
        (fit.Layout(1, 2048), False),
    ],
)
def test_a_layout_divides_a_model_evenly_or_is_none(layout: fit.Layout, even: bool) -> None:
    assert fit.divides(PRESETS["ernie-4.5-21b-a3b"], layout) == even


def test_a_dense_model_has_no_experts_to_spread() -> None:
    assert not fit.divides(PRESETS["ernie-4.5-0.3b"], fit.Layout(expert=True))
    assert fit.layouts(PRESETS["ernie-4.5-0.3b"], fit.Settled(tensor=2, data=2)) == [fit.Layout(2, 2)]


def test_what_is_left_is_counted_in_whole_sequences_of_all_groups() -> None:
    demand = fit.Demand(context=8192, concurrency=8)
    for layout in (fit.Layout(), fit.Layout(data=2)):
        found = fit.judge(PRESETS["ernie-4.5-21b-a3b"], demand, fit.CARDS["A100-80"], layout)
        left = int(80 * fit.GIB * fit.UTILIZATION) - found.footprint.fixed
        assert found.concurrency == layout.data * (left // (8192 * 56 * 1024))  # 56 KiB of keys and values per token
        assert found.missing == 0


def test_a_group_needs_room_for_its_share_of_the_sequences_alone() -> None:
    facts, card = PRESETS["ernie-4.5-21b-a3b"], fit.CARDS["A100-80"]
    one, two = (fit.judge(facts, fit.Demand(131_072, 5), card, fit.Layout(data=data)) for data in (1, 2))
    assert (one.missing > 0, one.concurrency) == (True, 4)
    assert (two.missing, two.concurrency) == (0, 8)


def test_more_ranks_than_key_value_heads_gain_no_cache() -> None:
    facts, demand = PRESETS["ernie-4.5-0.3b"], fit.Demand(8192)
    two, eight = (fit.footprint(facts, demand, fit.Layout(tensor)).kv_per_token for tensor in (2, 8))
    assert two == eight


@pytest.mark.parametrize(
    ("product", "card"),
    [
        (A100_80, "A100-80"),
        (A100_40, "A100-40"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H200", "H200"),
        ("Tesla-T4", "T4"),
        ("Tesla-V100-SXM2-32GB", "V100-32"),
        ("Tesla-V100-SXM2-16GB", "V100-16"),
        ("NVIDIA-A800-SXM4-80GB", "A800"),
        ("NVIDIA-H100-PCIe", "H100"),
        ("AMD_Instinct_MI250X_MI250", "MI250X"),
        ("Ascend910B3", "910B"),
    ],
)
def test_cards_are_known_by_the_label_that_feature_discovery_gives_them(product: str, card: str) -> None:
    assert fit.card_bytes(product) == fit.CARDS[card]


@pytest.mark.parametrize("product", ["NVIDIA-GeForce-RTX-5090", "NVIDIA-H100-NVL", "Ascend910B4"])
def test_a_card_of_another_size_is_not_taken_for_one_that_is_known(product: str) -> None:
    assert fit.card_bytes(product) is None


def test_a_card_that_is_not_known_is_not_judged() -> None:
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


def test_the_advice_spans_nodes_where_one_is_not_enough() -> None:
    assert str(judge("ernie-4.5-300b-a47b", [A100_80])).endswith(
        "on each of 1 GPUs of 80 GiB; spec.parallelism.tensor: 16 with nodes: 2 fits"
    )
    large_nodes = judge("ernie-4.5-300b-a47b", [A100_40], parallelism={"tensor": 16})
    assert str(large_nodes).endswith("on each of 16 GPUs of 40 GiB; spec.parallelism.tensor: 32 with nodes: 2 fits")


def test_the_advice_spreads_experts_where_the_heads_cannot_be_cut_further() -> None:
    refusal = judge("ernie-4.5-21b-a3b", ["Tesla-T4"], maxModelLen=131_072, parallelism={"tensor": 4})
    assert str(refusal).endswith("spec.parallelism.tensor: 4 with data: 2 and expert: true fits")


def test_where_no_number_of_gpus_is_enough_that_is_said() -> None:
    assert "no number of these GPUs up to 64 fits" in str(
        judge("ernie-4.5-21b-a3b", ["Tesla-T4"], maxModelLen=131_072, facts={"layers": 280})
    )


@pytest.mark.parametrize("parallelism", [{"data": 2, "tensor": 4, "expert": True}, {"tensor": 4}])
def test_a_layout_is_judged_as_it_is_asked_for(parallelism: dict[str, Any]) -> None:
    refusal = judge("ernie-4.5-21b-a3b", ["Tesla-T4"], maxModelLen=131_072, parallelism=parallelism)
    assert (refusal is None) == ("data" in parallelism)


def test_a_size_that_does_not_divide_the_model_is_refused_with_those_that_do() -> None:
    assert judge("ernie-4.5-21b-a3b", [], parallelism={"tensor": 8}) == (
        "TensorSizeUneven: spec.parallelism.tensor: 8 does not divide model m; 1, 2, 4 do"
    )


def test_groups_that_cannot_share_the_vocabulary_are_refused() -> None:
    refusal = judge("ernie-4.5-0.3b", [], facts={"vocab_size": 104}, parallelism={"tensor": 4, "data": 4, "nodes": 2})
    assert refusal == (
        "TensorSizeUneven: spec.parallelism.data: tensor times data, 16, does not divide the 104 tokens that model m "
        "knows, which all of them share; use less"
    )


@pytest.mark.parametrize(
    ("model", "facts", "more", "why"),
    [
        ("ernie-4.5-0.3b", {}, {}, "expert: model m has no experts"),
        ("ernie-4.5-21b-a3b", {"experts": 62}, {}, "expert: model m has 62 experts, which 4 does not divide"),
        (
            "ernie-4.5-21b-a3b",
            {"experts": 4},
            {"data": 2},
            "expert: model m has 4 experts, which 8, tensor times data, does not divide",
        ),
        (
            "ernie-4.5-21b-a3b",
            {},
            {"redundantExperts": 6},
            "redundantExperts: 6 places are no multiple of the 4 GPUs, which all have as many",
        ),
    ],
)
def test_experts_that_cannot_be_spread_are_refused(
    model: str, facts: dict[str, Any], more: dict[str, Any], why: str
) -> None:
    refusal = judge(model, [], facts=facts, parallelism={"tensor": 4, "expert": True} | more)
    assert refusal == f"ExpertsUneven: spec.parallelism.{why}"


def test_more_gpus_than_any_node_has_are_refused_with_the_nodes_that_do() -> None:
    refusal = judge("ernie-4.5-300b-a47b", [], parallelism={"tensor": 64, "nodes": 2})
    assert refusal == (
        "DoesNotFit: spec.parallelism.nodes: 64 GPUs on 2 nodes are 32 in one pod, and no node has more than 16; "
        "nodes: 8 makes it 8"
    )
    assert judge("ernie-4.5-300b-a47b", [], parallelism={"tensor": 64, "nodes": 4}) is None
    on_cpus = {"accelerator": {"resource": "none"}, "parallelism": {"tensor": 64}}
    assert judge("ernie-4.5-300b-a47b", [], **on_cpus) is None


def test_weights_that_an_older_runtime_has_inspected_are_believed() -> None:
    older = {"heads": 0, "tensor_parallel_sizes": ()}
    assert judge("ernie-4.5-300b-a47b", [A100_40], facts=older, parallelism={"tensor": 8, "expert": True}) is None


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, arguments, {})


async def test_a_released_model_is_judged_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("fit", "ernie-4.5-21b-a3b", "--concurrency", "8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ernie-4.5-21b-a3b: bfloat16, 8 x 8192 tokens at the same time; at most 8 GPUs of a node"
    cards = {line.split()[0]: line.split() for line in lines[3:]}
    assert set(cards) == set(fit.CARDS)
    assert " ".join(cards["A100-80"]) == "A100-80 1 1 1 no 1 40.7 GiB 0.9 GiB 56 KiB 29.5 GiB 67"


async def test_a_model_that_fits_nothing_fails_the_command_and_says_by_how_much(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await run("fit", "ernie-4.5-300b-a47b", "--context", "131072", "--concurrency", "4000") == 1
    h200 = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("H200"))
    assert h200.split()[:6] == ["H200", "64", "1", "64", "yes", "8"]
    assert " lacks " in h200


async def test_every_layout_of_a_card_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("fit", "ernie-4.5-21b-a3b", "--card", "T4", "--expert", "--gpus-per-node", "4") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert rows[0][:6] == ["T4", "1", "1", "1", "yes", "1"]
    assert ["T4", "8", "4", "2", "yes", "2"] in [row[:6] for row in rows]
    assert {row[4] for row in rows} == {"yes"}


async def test_a_program_reads_every_layout_in_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--data", "2", "--tensor", "4", "--redundant-experts", "8", "--quantization", "int8", "-o", "json")
    assert await run("fit", "ernie-4.5-21b-a3b", *asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["cards"]) == set(fit.CARDS)
    [found] = told["cards"]["T4"]["layouts"]
    assert found["parallelism"] == {"tensor": 4, "data": 2, "expert": True, "redundantExperts": 8, "nodes": 1}
    assert (found["fits"], found["missingBytes"], found["kvBytesPerToken"]) == (True, 0, 14 * 1024)


async def test_a_layout_that_cannot_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("fit", "ernie-4.5-21b-a3b", "--tensor", "8") == 2
    assert "no such layout divides ernie-4.5-21b-a3b evenly" in capsys.readouterr().err


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
