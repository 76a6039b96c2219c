"""What a LeaderWorkerSet may say, as far as we say it: leaderworkerset.x-k8s.io/v1 of kubernetes-sigs/lws (Apache-2.0).

Written down by hand from its published API types (api/leaderworkerset/v1/leaderworkerset_types.go). Strict, so that a
field of ours that it has not is found; its pod templates are Kubernetes' own and are judged as a StatefulSet's.
"""

from typing import Any

Schema = dict[str, Any]


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_COUNT = {"type": "integer", "minimum": 0, "format": "int32"}
_COUNT_OR_SHARE = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
_ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

SPEC = _object(
    ("leaderWorkerTemplate",),
    replicas=_COUNT,
    startupPolicy={"type": "string", "enum": ["LeaderCreated", "LeaderReady"]},
    leaderWorkerTemplate=_object(
        ("workerTemplate",),
        size=_COUNT,
        restartPolicy={"type": "string", "enum": ["Default", "RecreateGroupOnPodRestart", "None"]},
        leaderTemplate=_object((), metadata=_ANY, spec=_ANY),
        workerTemplate=_object((), metadata=_ANY, spec=_ANY),
    ),
    rolloutStrategy=_object(
        ("type",),
        type={"type": "string", "enum": ["RollingUpdate"]},
        rollingUpdateConfiguration=_object(
            (), partition=_COUNT, maxUnavailable=_COUNT_OR_SHARE, maxSurge=_COUNT_OR_SHARE
        ),
    ),
)
