"""Where weights may come from, and how what may not is said. e2e/stories/test_schema.py asks a real API server too."""

import re
from typing import Any

import pytest

from wenxin_operator import presets
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.fields import ClaimPath
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.errors import SpecError

SMALL = {"preset": "ernie-4.5-0.3b"}
SIZE = {"storage": {"size": "5Gi"}}


def model(**fields: Any) -> ModelSpec:
    parsed = parse(ModelSpec, fields)
    assert isinstance(parsed, ModelSpec), parsed
    return parsed


def refusal(**fields: Any) -> str:
    parsed = parse(ModelSpec, fields)
    assert isinstance(parsed, SpecError), parsed
    return str(parsed)


@pytest.mark.parametrize(
    "source",
    [
        "hf://baidu/ERNIE-4.5-0.3B-PT",
        "modelscope://PaddlePaddle/ERNIE-4.5-0.3B-PT",
        "https://files.example.com:8443/models/ernie/",
        "http://files/ernie",
        "s3://bucket",
        "s3://bucket/models/ernie/",
    ],
)
def test_a_download_needs_the_size_of_its_claim(source: str) -> None:
    assert model(source=source, **SIZE).downloads
    assert model(source=source, storage={"existingClaim": "mine"}).where("ernie").claim == "mine"
    assert refusal(source=source).startswith("spec: give storage.size, the space that the download takes")


@pytest.mark.parametrize(
    "source", ["hf://baidu", "hf://a/b/c", "ftp://x/y", "https://u:p@host/x", "https://h/../x", "s3://B/x", "s3://a"]
)
def test_another_source_is_refused_with_all_that_there_are(source: str) -> None:
    assert refusal(source=source, **SIZE).startswith("spec.source: write pvc://CLAIM/PATH")


@pytest.mark.parametrize("preset", presets.PRESETS)
@pytest.mark.parametrize(("hub", "organisation"), [("hf", "baidu"), ("modelscope", "PaddlePaddle")])
def test_a_preset_is_a_repository_on_each_hub(preset: str, hub: str, organisation: str) -> None:
    asked = model(preset=preset, hub=hub)
    assert asked.url == parse_source(asked.url)
    title = re.fullmatch(rf"{hub}://{organisation}/ERNIE-4\.5-(.+)", asked.url)
    assert title
    assert preset == f"ernie-4.5-{title[1].lower().removesuffix('-pt')}"


def parse_source(source: str) -> str | None:
    return model(source=source, **SIZE).source


@pytest.mark.parametrize(
    ("preset", "size"), [("ernie-4.5-0.3b", "3Gi"), ("ernie-4.5-21b-a3b", "47Gi"), ("ernie-4.5-300b-a47b", "616Gi")]
)
def test_a_preset_fits_its_claim_with_some_to_spare(preset: str, size: str) -> None:
    assert presets.claim_size(preset) == size
    assert int(size.removesuffix("Gi")) * 2**30 > 2 * presets.PRESETS[preset].parameters * 1.1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "spec: give exactly one of source and preset"),
        ({**SMALL, "source": "hf://a/b"}, "spec: give exactly one of source and preset"),
        ({"preset": "ernie-5"}, "spec.preset: write one of ernie-4.5-0.3b, "),
        ({"source": "pvc://a/b", "revision": "v1"}, "spec: nothing is downloaded from pvc://: leave out hub, revision"),
        ({"source": "pvc://a/b", **SIZE}, "spec: nothing is downloaded from pvc://"),
        ({"source": "hf://a/b", "hub": "hf", **SIZE}, "spec: hub says where a preset is taken from"),
        (
            {"source": "s3://bucket/x", "revision": "v1", **SIZE},
            "spec: revision is for hf://, modelscope:// and presets",
        ),
        ({"source": "https://h/x", "mirror": "http://m", **SIZE}, "spec: mirror is for hubs and s3://"),
        ({**SMALL, "s3Addressing": "virtual"}, "spec: s3Addressing is for s3://"),
        ({**SMALL, "mirror": "mirror.example.com"}, "spec.mirror: write a URL"),
        ({**SMALL, "proxy": "http://u:p@proxy"}, "spec.proxy: write a URL"),
        ({**SMALL, "checksums": {"config.json": "abc"}}, "spec.checksums.config.json: "),
        ({**SMALL, "storage": {"existingClaim": "a", "size": "1Gi"}}, "spec.storage: with storage.existingClaim, size"),
        ({**SMALL, "storage": {"accessModes": ["ReadOnlyMany"]}}, "spec.storage.accessModes[0]: "),
        (
            {**SMALL, "storage": {"accessModes": ["ReadWriteMany", "ReadWriteMany"]}},
            "spec.storage.accessModes: name each access mode once",
        ),
    ],
)
def test_a_refusal_names_the_field_and_what_to_do(fields: dict[str, Any], words: str) -> None:
    assert refusal(**fields).startswith(words)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({}, "spec.model: give exactly one of ref, source and preset"),
        ({"ref": "a", **SMALL}, "spec.model: give exactly one of ref, source and preset"),
        ({"ref": "a", "revision": "v1"}, "spec.model: with ref, that WenxinModel says all the rest"),
        ({"ref": "a", "nodeSelector": {"a": "b"}}, "spec.model: with ref, that WenxinModel says all the rest"),
    ],
)
def test_a_deployment_says_whose_weights_it_serves_in_one_way(choice: dict[str, Any], words: str) -> None:
    assert str(parse(DeploymentSpec, {"model": choice})).startswith(words)


def test_weights_of_another_revision_or_model_lie_in_another_folder() -> None:
    places = {
        model(**SMALL).where("a"),
        model(**SMALL, revision="v2").where("a"),
        model(**SMALL, hub="modelscope").where("a"),
        model(**SMALL, storage={"existingClaim": "both"}).where("a"),
        model(**SMALL, storage={"existingClaim": "both"}).where("b"),
    }
    assert len(places) == 5


def test_the_way_that_weights_come_decides_nothing_about_where_they_lie() -> None:
    plain = model(**SMALL)
    other = model(**SMALL, mirror="http://m", proxy="http://p", credentialsSecretRef={"name": "s"}, storage={"size": 9})
    assert plain.where("a") == other.where("a")
    assert plain.origin == other.origin


@pytest.mark.parametrize("source", ["https://h", "https://h/_%2e", "s3://bucket/._x"])
def test_a_folder_has_a_name_that_a_source_could_have(source: str) -> None:
    found = parse(ModelSpec, {"source": source, **SIZE})
    if isinstance(found, ModelSpec):
        where = found.where("ernie")
        again = parse(ModelSpec, {"source": f"pvc://{where.claim}/{where.path}"})
        assert isinstance(again, ModelSpec)
        assert again.where("ernie") == where


def test_weights_on_a_claim_lie_where_the_source_says() -> None:
    assert model(source="pvc://weights/a/b").where("any") == ClaimPath("weights", "a/b")
