"""The page of request fields, from the structs that requests are decoded into."""

import msgspec
from msgspec import inspect

from docs.markdown import code, table
from wenxin_runtime.server.openai.schemas import UNSUPPORTED, ChatRequest, CompletionRequest

_HEAD = """\
# Fields of a request

What `/v1/chat/completions` (chat) and `/v1/completions` (completions) take; [../api.md](../api.md) says what goes
beyond OpenAI's and how it works. `null` is the same as leaving a field out. A field that is in neither list is ignored,
and its name is logged once.

"""
_REFUSED = """
## Refused

These would change the answer if the server knew them, so a request that asks something with one of them is refused
with status 400: {}.
"""
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "min_length": "at least {} {}", "max_length": "at most {} {}"}
_NAMES = {
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.StrType: "string",
    inspect.BoolType: "boolean",
    inspect.DictType: "object",
    inspect.StructType: "object",
}


def fields_page() -> str:
    """One row per field: name, what it may be, where."""
    found = {"chat": _fields(ChatRequest), "completions": _fields(CompletionRequest)}
    names = sorted(found["chat"].keys() | found["completions"].keys())
    rows = []
    for name in names:
        where = [endpoint for endpoint, fields in found.items() if name in fields]
        spelled = {found[endpoint][name]: endpoint for endpoint in where}
        kinds = " / ".join(f"{kind} ({endpoint})" for kind, endpoint in spelled.items())
        rows.append((code(name), next(iter(spelled)) if len(spelled) == 1 else kinds, ", ".join(where)))
    refused = ", ".join(map(code, sorted(UNSUPPORTED)))
    return _HEAD + table(["field", "value", "endpoint"], rows) + _REFUSED.format(refused)


def _fields(kind: type[msgspec.Struct]) -> dict[str, str]:
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)  # noqa: S101 - for the type checker
    return {field.encode_name: _spelled(field.type) for field in found.fields}


def _spelled(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types):
            return " or ".join(_spelled(each) for each in types if not isinstance(each, inspect.NoneType))
        case inspect.LiteralType(values):
            return " or ".join(map(code, values))
        case inspect.ListType():
            return _bounded(f"list of {_spelled(kind.item_type)}", kind)
    return _bounded(_NAMES.get(type(kind), "any JSON"), kind)


def _bounded(name: str, kind: inspect.Type) -> str:
    unit = "items" if isinstance(kind, inspect.ListType) else "characters"
    found = {key: getattr(kind, key, None) for key in _BOUNDS}
    bounds = [_BOUNDS[key].format(value, unit) for key, value in found.items() if value is not None]
    return f"{name} ({', '.join(bounds)})" if bounds else name
