"""The chart's values: each has a comment, a limit and a use, and nothing else is taken."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from docs.reference_chart import described, node_at
from tests.wenxin_operator.test_chart import CHART

TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(TEXT)
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = "\n".join(path.read_text() for path in sorted((CHART / "templates").rglob("*.*")))
FREE = {"type", "description"}
"""What an object of the schema says that Kubernetes itself judges, such as an affinity."""


def parts(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every subschema, with its place."""
    if isinstance(node, dict):
        yield where, node
        for name in ("properties", "definitions"):
            for key, child in node.get(name, {}).items():
                yield from parts(child, f"{where}.{key}")
        for name in ("items", "additionalProperties"):
            yield from parts(node.get(name), f"{where}[]")


def leaves(node: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, dict) and value and above + name != "resources":
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name


def test_the_values_pass_their_own_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)
    Draft7Validator(SCHEMA).validate(VALUES)


@pytest.mark.parametrize(
    ("where", "part"), list(parts(SCHEMA, "values")), ids=lambda each: each if isinstance(each, str) else ""
)
def test_every_part_of_the_schema_is_strict(where: str, part: dict[str, Any]) -> None:
    if part.get("type") == "object":
        assert "additionalProperties" in part or part.keys() == FREE, where
    if part.get("type") == "array":
        assert "items" in part, where
    if part.get("type") == "integer" and not where.endswith("tolerationSeconds"):
        assert "minimum" in part, where


def test_every_value_is_explained() -> None:
    assert [value.path for value in described(TEXT) if not value.meaning.endswith(".")] == []


def test_every_value_is_in_the_schema_and_nothing_else_is() -> None:
    assert VALUES.keys() | {"global"} == SCHEMA["properties"].keys()
    for path in leaves(VALUES):
        assert node_at(SCHEMA, path), path
    for where, part in parts(SCHEMA, "values"):
        if "[]" not in where and "properties" in part and where != "values":
            value = VALUES
            for name in where.split(".")[1:]:
                value = value[name]
            assert not value or value.keys() == part["properties"].keys(), where


def test_every_value_is_used_in_a_template_and_every_one_used_exists() -> None:
    used = set(re.findall(r"\.Values\.(\w+(?:\.\w+)*)", TEMPLATES))
    known = set(leaves(VALUES))
    groups = {path.rpartition(".")[0] for path in known if "." in path}
    assert used - groups <= known, "used in a template, and not in values.yaml"
    assert known - used == set(), "in values.yaml, and used in no template"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"replica": 2}, "'replica' was unexpected"),
        ({"replicas": -1}, "less than the minimum"),
        ({"replicas": 6}, "greater than the maximum"),
        ({"resyncInterval": "120"}, "does not match"),
        ({"resyncInterval": "0s"}, "does not match"),
        ({"metrics": {"interval": "0.0m"}}, "does not match"),
        ({"metrics": {"httpsPort": 443}}, "less than the minimum"),  # not for user 65532
        ({"runtimeImagePullPolicy": "Sometimes"}, "is not one of"),
        ({"runtimeImagePullSecrets": [{"name": "mirror"}]}, "is not of type 'string'"),
        ({"lease": {"length": "15s"}}, "'length' was unexpected"),
        ({"watchNamespaces": "team-a"}, "is not of type 'array'"),
        ({"watchNamespaces": ["team-a", "team-a"]}, "non-unique"),
        ({"crds": {"upgrade": "yes"}}, "is not of type 'boolean'"),
        ({"image": {"repository": "host/operator@sha256:0"}}, "does not match"),
        ({"resources": {"requests": {"memory": "much"}}}, "does not match"),
        ({"tolerations": [{"operator": "Sometimes"}]}, "is not one of"),
        ({"affinity": {"podAfinity": {}}}, "'podAfinity' was unexpected"),
        ({"networkPolicy": {"apiServerPorts": []}}, "non-empty"),
    ],
)
def test_a_wrong_value_is_refused(change: dict[str, Any], says: str) -> None:
    messages = [error.message for error in Draft7Validator(SCHEMA).iter_errors({**VALUES, **change})]
    assert any(says in message for message in messages), messages
