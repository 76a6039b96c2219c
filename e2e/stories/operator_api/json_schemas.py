"""The API server's own OpenAPI as files for kubeconform, which else would fetch them from the network."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from e2e.harness.control_plane import ControlPlane

Schema = dict[str, Any]
LOCATION = "{{.ResourceAPIVersion}}-{{.ResourceKind}}.json"
"""File names, in kubeconform's words. No two groups have a kind of one name in what we render."""
_REFERENCE = "#/definitions/"
_ANY = "x-kubernetes-preserve-unknown-fields"


def write(plane: ControlPlane, folder: Path, kinds: Iterable[tuple[str, str]]) -> None:
    """Write a strict schema for each (apiVersion, kind), with all that it refers to.

    Raises:
        KeyError: the API server does not know one.
    """
    definitions: dict[str, Schema] = json.loads(plane.kubectl("get", "--raw", "/openapi/v2"))["definitions"]
    named = {
        ("/".join(filter(None, (each["group"], each["version"]))), each["kind"]): name
        for name, definition in definitions.items()
        for each in definition.get("x-kubernetes-group-version-kind", ())
    }
    for api_version, kind in kinds:
        name = named[api_version, kind]
        needed = {each: _strict(definitions[each]) for each in _closure(name, definitions)}
        path = folder / f"{api_version.rpartition('/')[2]}-{kind.lower()}.json"
        path.write_text(json.dumps({"$ref": _REFERENCE + name, "definitions": needed}))


def _closure(name: str, definitions: dict[str, Schema]) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += _references(definitions[each])
    return found


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for each in node for name in _references(each)]
    if not isinstance(node, dict):
        return []
    own = node.get("$ref")
    here = [own.removeprefix(_REFERENCE)] if isinstance(own, str) else []
    return here + [name for each in node.values() for name in _references(each)]


def _strict(node: Any) -> Any:
    """The same, taking no field that is not listed, and numbers where Kubernetes takes both."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    result = {key: _strict(value) for key, value in node.items() if key != "format"}
    if "properties" in node and "additionalProperties" not in node and not node.get(_ANY):
        result["additionalProperties"] = False
    return result
