"""A client's JSON schema, made ready for the grammar compiler.

The compiler refuses every keyword that it cannot enforce. That is right for `uniqueItems`, and wrong for what is only a
remark about the values, such as `format: int32`; remarks are dropped.
"""

from collections.abc import Callable
from typing import Any

from wenxin_runtime.errors import InvalidRequest

Schema = dict[str, Any]

_SCHEMAS = frozenset(
    {"additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "else", "if", "items", "not", "oneOf"}
    | {"prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMAS_BY_NAME = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"})
_DEEPEST = 100


def rewritten(schema: Any, change: Callable[[Schema], Schema], *, param: str, depth: int = 0) -> Any:
    """Apply `change` to every schema in `schema`, the inner ones first; data such as `enum` stays as it is.

    Raises:
        InvalidRequest: nested too deep; blames `param`.
    """
    if isinstance(schema, list):
        return [rewritten(each, change, param=param, depth=depth) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if depth > _DEEPEST:
        raise InvalidRequest(f"{param}: the schema is nested deeper than {_DEEPEST} levels", param=param)
    found: Schema = {}
    for key, value in schema.items():
        if key in _SCHEMAS:
            found[key] = rewritten(value, change, param=param, depth=depth + 1)
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            found[key] = {name: rewritten(each, change, param=param, depth=depth + 1) for name, each in value.items()}
        else:
            found[key] = value
    return change(found)


def without_remarks(schema: Schema) -> Schema:
    """Drop what restricts nothing and would be refused: formats that nothing defines, `uniqueItems: false`."""
    found = dict(schema)
    if found.get("format") not in _FORMATS:
        found.pop("format", None)
    if found.get("uniqueItems") is False:
        del found["uniqueItems"]
    return found


def closed(schema: Schema) -> Schema:
    """Allow an object the properties that it names and no others, where it does not say so itself."""
    is_object = schema.get("type") == "object" or not {"properties", "patternProperties"}.isdisjoint(schema)
    return {**schema, "additionalProperties": False} if is_object and "additionalProperties" not in schema else schema


def moved(path: str) -> Callable[[Schema], Schema]:
    """Make the change that lets references to `#/...` hold where the schema now stands at `path`, such as `#/items`."""

    def change(schema: Schema) -> Schema:
        found = {key: value for key, value in schema.items() if key != "$id"}
        reference = found.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            found["$ref"] = path + reference[1:]
        return found

    return change
