"""What a request to the API server is about, and how what it brings becomes an object: the grammar of FakeApi."""

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from wenxin_operator.names import RESOURCES

Object = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request as the server saw it, with the verb that RBAC judges."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    content_type: str = ""
    query: str = ""


@dataclass
class Target:
    """What a path points at."""

    api_version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def resource(self) -> str:
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.api_version, self.plural, self.namespace, self.name


def strip(thing: Object, *more: str) -> Object:
    """The object without apiVersion and kind, as in a list, and without some metadata."""
    metadata = {key: value for key, value in thing["metadata"].items() if key not in more}
    return {key: value for key, value in thing.items() if key not in ("apiVersion", "kind")} | {"metadata": metadata}


def merged(live: Any, change: Any) -> Any:
    """JSON merge patch."""
    if not isinstance(change, dict):
        return change
    result = dict(live) if isinstance(live, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def without(live: Object, before: Object, change: Object) -> Object:
    """The live object without the fields that were applied before and no longer are."""
    result = {}
    for key, value in live.items():
        if key in before and key not in change:
            continue
        nested = isinstance(value, dict) and isinstance(before.get(key), dict) and isinstance(change.get(key), dict)
        result[key] = without(value, before[key], change[key]) if nested else value
    return result


def parse(parts: list[str]) -> Target:
    api_version, rest = (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3]
    return Target(api_version, plural, namespace, name, subresource)


def seen(request: web.Request, target: Target) -> Request:
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    reading = "watch" if "watch" in request.query else "get" if target.name else "list"
    verb = verbs.get(request.method, reading)
    return Request(
        verb, target.group, target.resource, target.namespace, target.name, request.content_type, request.query_string
    )


def kind_of(target: Target) -> str:
    return next((kind for kind, resource in RESOURCES.items() if resource.plural == target.plural), "Lease")


def covers(target: Target, at: Target) -> bool:
    same = (target.api_version, target.plural) == (at.api_version, at.plural)
    return same and target.namespace in ("", at.namespace)


def matches(request: web.Request, thing: Object) -> bool:
    wanted = filter(None, request.query.get("labelSelector", "").split(","))
    labels = thing["metadata"].get("labels") or {}
    return all(labels.get(part.split("=")[0]) == part.split("=")[1] for part in wanted)
