"""The documents of custom.metrics.k8s.io: discovery, metric values, errors. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wenxin_operator.load import Load
from wenxin_operator.metrics_api.queries import GROUP, VERSIONS
from wenxin_operator.names import METRIC_QUEUE_DEPTH, METRIC_RUNNING

Document = dict[str, Any]

METRICS: Mapping[str, Callable[[Load], int]] = {
    METRIC_QUEUE_DEPTH: lambda load: load.waiting,
    METRIC_RUNNING: lambda load: load.running,
}
"""What can be asked of a pod; tests/contract holds the names to the runtime's own series."""

_REASONS: Mapping[int, str] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass(frozen=True, slots=True)
class Value:
    """One pod's metric."""

    pod: str
    namespace: str
    value: int
    at: datetime


def groups() -> Document:
    """At /apis."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}


def group() -> Document:
    """At /apis/custom.metrics.k8s.io."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group()}


def resources(version: str) -> Document:
    """At /apis/custom.metrics.k8s.io/VERSION."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/{version}",
        "resources": [
            {
                "name": f"pods/{metric}",
                "singularName": "",
                "namespaced": True,
                "kind": "MetricValueList",
                "verbs": ["get"],
            }
            for metric in METRICS
        ],
    }


def values(version: str, metric: str, found: Iterable[Value]) -> Document:
    """The metric of some pods; of none where none answered."""
    return {
        "kind": "MetricValueList",
        "apiVersion": f"{GROUP}/{version}",
        "metadata": {},
        "items": [_item(version, metric, one) for one in found],
    }


def status(code: int, message: str) -> Document:
    """An error, as the API server words its own."""
    reason = _REASONS.get(code, "")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def _group() -> Document:
    versions = [{"groupVersion": f"{GROUP}/{version}", "version": version} for version in VERSIONS]
    return {"name": GROUP, "versions": versions, "preferredVersion": versions[0]}


def _item(version: str, metric: str, one: Value) -> Document:
    named = {"metricName": metric} if version == "v1beta1" else {"metric": {"name": metric}}
    return {
        "describedObject": {"kind": "Pod", "namespace": one.namespace, "name": one.pod, "apiVersion": "v1"},
        **named,
        "timestamp": one.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "value": str(one.value),
    }
