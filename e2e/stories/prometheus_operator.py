"""The Prometheus Operator's definitions, as far as our objects need them: a cluster without it takes what Helm makes.

Only the fields that this project writes, from https://prometheus-operator.dev/docs/api-reference/api/; what is not
listed is refused, so that a typo is.
"""

from typing import Any

GROUP = "monitoring.coreos.com"

_STRING = {"type": "string"}
_LABELS = {"type": "object", "additionalProperties": _STRING}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _list(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of}


_SELECTOR = _object(matchLabels=_LABELS)
_RELABELING = _object(
    sourceLabels=_list(_STRING), targetLabel=_STRING, replacement=_STRING, regex=_STRING, action=_STRING
)
_ENDPOINT = _object(
    port=_STRING, path=_STRING, interval=_STRING, honorLabels={"type": "boolean"}, relabelings=_list(_RELABELING)
)
_NAMESPACES = _object(any={"type": "boolean"}, matchNames=_list(_STRING))
_RULE = _object(
    alert=_STRING,
    record=_STRING,
    expr=_STRING,
    labels=_LABELS,
    annotations=_LABELS,
    **{"for": _STRING},
)
_KINDS = {
    "PodMonitor": _object(selector=_SELECTOR, namespaceSelector=_NAMESPACES, podMetricsEndpoints=_list(_ENDPOINT)),
    "ServiceMonitor": _object(selector=_SELECTOR, namespaceSelector=_NAMESPACES, endpoints=_list(_ENDPOINT)),
    "PrometheusRule": _object(groups=_list(_object(name=_STRING, rules=_list(_RULE)))),
}


def definitions() -> list[dict[str, Any]]:
    """One CustomResourceDefinition for each kind."""
    return [_definition(kind, spec) for kind, spec in _KINDS.items()]


def _definition(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _object(spec=spec) | {"required": ["spec"]}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }
