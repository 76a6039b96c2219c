"""The CRDs: structural, complete, bounded, with the same defaults as the models. e2e applies them to a real server."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wenxin_operator.fake_cluster import defaulted
from wenxin_operator.api import schema
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.parsing import parse

CRDS = schema.crds()
STRUCTURAL = {
    "additionalProperties", "anyOf", "default", "description", "enum", "format", "items", "maximum", "maxItems",
    "maxLength", "maxProperties", "minimum", "minItems", "minLength", "pattern", "properties", "required", "type",
    "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys", "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations",
}  # fmt: skip


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


def fields() -> list[tuple[str, dict[str, Any]]]:
    """Every field of both resources, with its path."""
    roots = ((name, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]) for name, crd in CRDS.items())
    return [(f"{name}{path}", node) for name, root in roots for path, node in nodes(root)]


def bounded(path: str, node: dict[str, Any]) -> bool:
    if path.endswith((".apiVersion", ".kind")) or "enum" in node or node.get("format") == "date-time":
        return True
    limits = {"string": "maxLength", "array": "maxItems"}
    limit = "maxProperties" if isinstance(node.get("additionalProperties"), dict) else limits.get(node.get("type", ""))
    return limit is None or limit in node


def test_every_field_says_only_what_a_structural_schema_may() -> None:
    assert {key for _, node in fields() for key in node} <= STRUCTURAL
    assert [path for path, node in fields() if "type" not in node and "x-kubernetes-int-or-string" not in node] == []


def test_every_field_is_described_in_a_sentence() -> None:
    named = [
        (path, node) for path, node in fields() if not path.endswith(("[]", "{}", ".metadata", ".apiVersion", ".kind"))
    ]
    assert [path for path, node in named if not node.get("description", "").endswith(".")] == []


def test_every_field_is_bounded_so_that_rules_stay_cheap() -> None:
    assert [path for path, node in fields() if not bounded(path, node)] == []


def test_a_field_that_does_nothing_yet_is_not_in_the_schema() -> None:
    root = CRDS["wenxindeployments.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert list(root["properties"]["spec"]["properties"]) == [
        "model", "servedName", "image", "replicas", "autoscaling", "dtype", "quantization", "maxModelLen",
        "parallelism", "accelerator", "engine", "rollout", "drain", "answerCache", "grpc", "monitoring", "pod",
    ]  # fmt: skip


def test_scale_reads_and_writes_the_count_and_knows_the_pods() -> None:
    version = CRDS["wenxindeployments.yaml"]["spec"]["versions"][0]
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_kubectl_get_shows_what_matters_first() -> None:
    columns = CRDS["wenxindeployments.yaml"]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [one["name"] for one in columns if not one["priority"]] == ["READY", "REPLICAS", "MODEL", "GPUS", "AGE"]


def test_kubectl_get_wm_shows_how_far_a_download_is() -> None:
    columns = CRDS["wenxinmodels.yaml"]["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [one["name"] for one in columns if not one["priority"]]
    assert shown == ["READY", "REASON", "PROGRESS", "SIZE", "SOURCE", "AGE"]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"engine": {"maxNumSeqs": 2}, "accelerator": {"resource": "none"}},
        {"pod": {"tolerations": [{"key": "a"}], "topologySpreadConstraints": [{"topologyKey": "zone"}]}},
        {"pod": {"resources": {"limits": {"cpu": 2}}}, "drain": {"delay": "1s"}},
        {"parallelism": {"tensor": 2, "nodes": 2}},
        {"autoscaling": {"maxReplicas": 3}},
        {"autoscaling": {"maxReplicas": 3, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}},
    ],
)
def test_the_api_server_and_the_models_apply_the_same_defaults(spec: dict[str, Any]) -> None:
    given = {"model": {"ref": "ernie"}} | spec
    root = CRDS["wenxindeployments.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    stored = defaulted(root["properties"]["spec"], given)
    assert parse(DeploymentSpec, stored) == parse(DeploymentSpec, given)
    dumped = DeploymentSpec.model_validate(given).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert set(stored) <= set(dumped)


def test_a_status_holds_no_default() -> None:
    for crd in CRDS.values():
        status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
        assert not [path for path, node in nodes(status) if "default" in node]


def test_conditions_are_a_map_by_type() -> None:
    for crd in CRDS.values():
        status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
        conditions = status["properties"]["conditions"]
        assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


@pytest.mark.parametrize("condition", ["Accepted", "ModelReady", "Progressing", "Available", "ScalingActive", "Ready"])
def test_every_condition_is_defined_in_prose(condition: str) -> None:
    status = CRDS["wenxindeployments.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert f"`{condition}`: " in status["properties"]["conditions"]["description"]


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(schema, "ROOT", tmp_path)
        monkeypatch.setattr(schema, "FOLDERS", (tmp_path / "crds",))
        return tmp_path / "crds"

    def test_it_writes_what_is_missing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["schema"])
        assert schema.main() == 0
        assert sorted(path.name for path in folder.iterdir()) == ["wenxindeployments.yaml", "wenxinmodels.yaml"]
        assert "&id" not in (folder / "wenxindeployments.yaml").read_text()

    def test_check_fails_on_a_file_that_is_not_up_to_date_and_leaves_it(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["schema"])
        schema.main()
        (folder / "wenxinmodels.yaml").write_text("old")
        monkeypatch.setattr(sys, "argv", ["schema", "--check"])
        capsys.readouterr()
        assert schema.main() == 1
        assert capsys.readouterr().out == "crds/wenxinmodels.yaml is not up to date: run `make crds`\n"
        assert (folder / "wenxinmodels.yaml").read_text() == "old"
