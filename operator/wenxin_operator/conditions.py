"""From findings to conditions and events: times kept, generation noted, one event per change. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from wenxin_operator.api.status import Condition
from wenxin_operator.events import Event
from wenxin_operator.names import WENXIN_DEPLOYMENT, WENXIN_MODEL, Key, Raw
from wenxin_operator.observe import conditions_of

LONGEST_MESSAGE = 2048
LONGEST_NOTE = 1000

NEXT_STEPS: Mapping[str, str] = {
    "ImagePullBackOff": "check the image's name, and whether the pod may pull it",
    "Unschedulable": "free or add nodes, or ask for less",
    "OOMKilled": "raise the memory limit in spec.pod.resources, or lower spec.maxModelLen or spec.engine.maxNumSeqs",
    "EngineStalled": "where a step may really take so long, raise spec.engine.stallTimeout",
    "CrashLoopBackOff": "see `kubectl logs --previous` of the pod",
    "InspectionFailed": "see `kubectl logs` of the Job's pod",
    "FailedCreate": "see the namespace's quotas and admission policies",
    "Forbidden": "the operator's role lacks a right that its chart grants; install the chart that belongs to it",
    "RedisUnreachable": "see `kubectl wenxin cache stats`, the pods' logs and docs/answer-cache.md",
    "NameTaken": "remove or rename that object, or give this resource another name",
    "AnotherAutoscaler": "remove it, or take spec.autoscaling away; two would fight",
    "NoMetricsProvider": "upgrade the chart with another provider, or take spec.autoscaling away and scale by hand",
    "KedaNotInstalled": "install KEDA, or upgrade the chart with another metrics.provider",
    "KedaNotReady": "see `kubectl describe scaledobject`",
    "NoMetricsServer": "see `kubectl get apiservice` and docs/autoscaling.md",
    "RejectedByCluster": "correct the fields of spec.pod that this follows from",
}
"""What a person can do about a reason."""

QUIET = frozenset(
    {
        "RolloutComplete",
        "WaitingForModel",
        "ScaledToZero",
        "NotAccepted",
        "Inspecting",
        "Downloading",
        "WaitingForPod",
        "Starting",
        "NoReadyPods",
        "RedisStarting",
        "WaitingForPods",
    }
)
"""Reasons of a False condition that need nobody's attention: they pass by themselves or another condition speaks."""

_TOLD: Mapping[str, frozenset[str]] = {
    WENXIN_DEPLOYMENT: frozenset({"Accepted", "ModelReady", "Progressing", "ScalingActive", "CacheReady"}),
    WENXIN_MODEL: frozenset({"Accepted", "Ready"}),
}
"""Conditions whose being False is an event. A deployment's Available and Ready follow from the others."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is found about one condition now."""

    type: str
    holds: bool
    reason: str
    message: str


def finding(kind: str, reason: str, message: str) -> Finding:
    """A condition that does not hold, with what to do about it."""
    step = NEXT_STEPS.get(reason)
    return Finding(kind, holds=False, reason=reason, message=f"{message}; {step}" if step else message)


def settle(findings: Iterable[Finding], resource: Raw, now: datetime) -> tuple[Condition, ...]:
    """Conditions from findings; the time of the last transition is kept where the status is as before."""
    before = conditions_of(resource)
    return tuple(_condition(one, before.get(one.type), resource["metadata"]["generation"], now) for one in findings)


def events(resource: Raw, after: Iterable[Condition]) -> Iterator[Event]:
    """One event for each condition that changed in a way a person wants to know of."""
    before, metadata = conditions_of(resource), resource["metadata"]
    key = Key(resource["kind"], metadata["namespace"], metadata["name"])
    for condition in after:
        old = before.get(condition.type, {})
        if (old.get("status"), old.get("reason")) == (condition.status, condition.reason):
            continue
        if kind := _event_type(key.kind, condition):
            note = condition.message[:LONGEST_NOTE]
            yield Event(key, metadata["uid"], kind, condition.reason, f"{condition.type} is {condition.status}: {note}")


def _condition(found: Finding, old: Raw | None, generation: int, now: datetime) -> Condition:
    same = old is not None and old.get("status") == ("True" if found.holds else "False")
    return Condition(
        type=found.type,
        status="True" if found.holds else "False",
        observed_generation=generation,
        last_transition_time=old["lastTransitionTime"] if old and same else _timestamp(now),
        reason=found.reason,
        message=found.message[:LONGEST_MESSAGE],
    )


def _event_type(kind: str, condition: Condition) -> Literal["Normal", "Warning"] | None:
    if condition.status == "True":
        return "Normal" if condition.type == "Ready" else None
    return "Warning" if condition.type in _TOLD[kind] and condition.reason not in QUIET else None


def _timestamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
