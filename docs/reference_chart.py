"""The page of the chart's values, from the comments of values.yaml and the limits of values.schema.json."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docs.markdown import code, table

CHART = Path(__file__).parent.parent / "charts" / "wenxin-operator"

_HEAD = """\
# Values of the chart `wenxin-operator`

`helm install wenxin-operator charts/wenxin-operator --namespace wenxin-system --create-namespace --set NAME=VALUE`.
What is not listed here is refused. Durations are written like `90s`, `1m30s` or `500ms`.
[Installing](../install.md) says which of them matter when.

"""
_KEY = re.compile(r"(?P<indent> *)(?P<name>\w+):")
_COMMENT = re.compile(r" *# ?(?P<begins>-- )?(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Value:
    """One value, or a whole group of which one comment speaks.

    Attributes:
        path: As `--set` takes it.
        default: What values.yaml says.
        meaning: Its comment; empty where there is none.
    """

    path: str
    default: Any
    meaning: str


def chart_page() -> str:
    """One row per value: name, default, what it may be, meaning."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    rows = [
        (code(value.path), _default(value.default), _limits(node_at(schema, value.path), schema), value.meaning)
        for value in described((CHART / "values.yaml").read_text())
    ]
    return _HEAD + table(["value", "default", "may be", "meaning"], rows)


def described(text: str) -> Iterator[Value]:
    """Every value of a values.yaml with its comment, which begins with `# --`.

    A group with a comment of its own is one value; one without is as many as it has members.
    """
    values = yaml.safe_load(text)
    comments = dict(_comments(text))
    yield from _walk(values, "", comments)


def node_at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The part of the schema that a value must meet."""
    node = schema
    for part in path.split("."):
        node = _resolved(node["properties"][part], schema)
    return node


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = node.get("$ref", "").removeprefix("#/definitions/")
    found: dict[str, Any] = schema["definitions"][name] if name else node
    return found


def _walk(node: dict[str, Any], above: str, comments: dict[str, str]) -> Iterator[Value]:
    for name, value in node.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and value and path not in comments:
            yield from _walk(value, f"{path}.", comments)
        else:
            yield Value(path, value, comments.get(path, ""))


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """(path, comment) of every key with a `# --` comment right above it."""
    above: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        if match := _COMMENT.fullmatch(line):
            said = [match["text"]] if match["begins"] else [*said, match["text"]] if said else []
        elif match := _KEY.match(line):
            indent = len(match["indent"])
            above = [*(each for each in above if each[0] < indent), (indent, match["name"])]
            if said:
                yield ".".join(name for _, name in above), " ".join(said)
            said = []
        else:
            said = []


def _default(value: Any) -> str:
    return code(value if isinstance(value, str) else json.dumps(value))


def _limits(node: dict[str, Any], schema: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(map(code, node["enum"]))
    if node.get("type") == "integer" and "maximum" in node:
        return f"{node['minimum']} to {node['maximum']}"
    if node == schema["definitions"]["duration"]:
        return "duration"
    kind = {"boolean": "`true`, `false`", "array": "list", "object": "map"}
    return kind.get(str(node.get("type", "")), str(node.get("type", "")))
