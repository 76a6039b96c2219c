"""The page of custom resources, from crds/."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from docs.markdown import code, table

CRDS = Path(__file__).parent.parent / "crds"

_HEAD = """\
# Custom resources

Fields marked * are required. A rule is checked by the API server when the resource is written, whether or not the
operator runs.
"""


def resources_page() -> str:
    """One section per kind and version: fields of spec and status, and rules."""
    return _HEAD + "".join(_kind(yaml.safe_load(path.read_text())) for path in sorted(CRDS.glob("*.yaml")))


def fields_of(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(path, schema, required) of every field below an object, depth first; `[]` stands for the items of a list."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, field, name in required
        yield from fields_of(field, here)
        yield from fields_of(field.get("items", {}), here + "[]")


def rules_of(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(path, rule) of every CEL rule at or below an object."""
    yield from ((path, rule) for rule in schema.get("x-kubernetes-validations", []))
    for here, field, _ in fields_of(schema, path):
        yield from ((here, rule) for rule in field.get("x-kubernetes-validations", []))


def _kind(crd: dict[str, Any]) -> str:
    names = crd["spec"]["names"]
    short = f" (short `{names['shortNames'][0]}`)" if names.get("shortNames") else ""
    return "".join(
        f"\n## {names['kind']}{short}\n\n`{crd['spec']['group']}/{version['name']}`. "
        + _version(version["schema"]["openAPIV3Schema"])
        for version in crd["spec"]["versions"]
    )


def _version(schema: dict[str, Any]) -> str:
    text = str(schema.get("description", "")).strip() + "\n"
    for part in ("spec", "status"):
        fields = [_field(*field) for field in fields_of(schema["properties"][part], part)]
        if fields:
            text += f"\n### {part}\n\n" + table(["field", "type", "default", "meaning"], fields)
    rules = [(code(path), rule.get("message", rule["rule"])) for path, rule in rules_of(schema, "")]
    return text + ("\n### Rules\n\n" + table(["of", "rule"], rules) if rules else "")


def _field(path: str, schema: dict[str, Any], required: bool) -> tuple[str, str, str, str]:
    default = code(_written(schema["default"])) if "default" in schema else ""
    return code(path) + ("*" if required else ""), _type(schema), default, schema.get("description", "")


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(code(str(value)) for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "object")) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" {low} to {high}"
    return f", at least {low}" if low is not None else f", at most {high}" if high is not None else ""


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "{}" if value == {} else str(value)
