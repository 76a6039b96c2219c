"""The condition ScalingActive: what the autoscaler says of itself, in our words and with what to do about it. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from wenxin_operator.api.autoscaling import Autoscaling
from wenxin_operator.conditions import Finding, finding
from wenxin_operator.names import HORIZONTAL_POD_AUTOSCALER, METRIC_QUEUE_DEPTH, SCALED_OBJECT, Raw
from wenxin_operator.observe import DeploymentSnapshot, conditions_of
from wenxin_operator.plan.deployment import DeploymentPlan
from wenxin_operator.pods import Problem

SCALING_ACTIVE = "ScalingActive"
FIRST_SAMPLE = timedelta(seconds=60)
"""How long a first measurement may take: a round of our poller or a scrape of Prometheus, and then the autoscaler,
which looks every 15 s. Until then it is no news that there is none."""

_NO_SERVER = (
    "no custom metrics API",  # no APIService of the group
    "no known available metric versions",  # none that anybody serves
    "could not find the requested resource",  # nobody serves the group
    "currently unable to handle the request",  # an APIService whose server does not answer
    "no external metrics API",
)
"""In what a HorizontalPodAutoscaler repeats of its client's errors (k8s.io/metrics, kubernetes-sigs/custom-metrics)."""

_LIMITS: Mapping[str, str] = {
    "TooManyReplicas": "more replicas are wanted than spec.autoscaling.maxReplicas, {most}, allows",
    "ScaleUpLimit": "more replicas are wanted; spec.autoscaling.behavior.scaleUp sets the pace",
    "ScaleDownLimit": "fewer replicas are wanted; spec.autoscaling.behavior.scaleDown sets the pace",
}
"""Why another count is wanted than is set. TooFewReplicas is not among it: an idle deployment is no news."""


def active(seen: DeploymentSnapshot, plan: DeploymentPlan, refused: Problem | None, now: datetime) -> Finding | None:
    """Whether the count follows the load; None where nobody asked for it.

    Args:
        seen: What there is.
        plan: What should exist.
        refused: Why the autoscaler could not be written.
        now: Whether a first measurement is overdue.
    """
    spec = plan.decision.spec
    if spec is None or spec.autoscaling is None:
        return None
    if problem := plan.unscaled or refused:
        return finding(SCALING_ACTIVE, problem.reason, problem.message)
    if plan.decision.target is None:
        return finding(SCALING_ACTIVE, "WaitingForModel", "the autoscaler is made with the first pods")
    if spec.replicas == 0:
        words = "spec.replicas is 0, which switches the autoscaler off; `kubectl scale --replicas=1` switches it on"
        return finding(SCALING_ACTIVE, "ScaledToZero", words)
    live = {child["kind"]: child for child in seen.children}
    if scaled_object := live.get(SCALED_OBJECT):
        return _of_keda(scaled_object, seen, spec.autoscaling, now)
    return _of_autoscaler(_autoscaler(seen), seen, spec.autoscaling, now)


def again_at(seen: DeploymentSnapshot, now: datetime) -> datetime | None:
    """When time alone changes what `active` finds; None when only what there is does."""
    autoscaler = _autoscaler(seen)
    if autoscaler is None or conditions_of(autoscaler).get("ScalingActive", {}).get("status") != "False":
        return None
    due = _first_sample_due(autoscaler, seen)
    return due if due and now < due else None


def _autoscaler(seen: DeploymentSnapshot) -> Raw | None:
    """Ours, or what KEDA has made of our ScaledObject."""
    ours = (child for child in seen.children if child["kind"] == HORIZONTAL_POD_AUTOSCALER)
    return next(ours, seen.scalers.of_keda)


def _of_keda(scaled_object: Raw, seen: DeploymentSnapshot, asked: Autoscaling, now: datetime) -> Finding:
    ready = conditions_of(scaled_object).get("Ready", {})
    if ready.get("status") == "False":
        return finding(SCALING_ACTIVE, "KedaNotReady", f"KEDA says: {ready.get('message', '')}")
    return _of_autoscaler(seen.scalers.of_keda, seen, asked, now)


def _of_autoscaler(autoscaler: Raw | None, seen: DeploymentSnapshot, asked: Autoscaling, now: datetime) -> Finding:
    said = conditions_of(autoscaler) if autoscaler else {}
    able, active, limited = (said.get(kind, {}) for kind in ("AbleToScale", "ScalingActive", "ScalingLimited"))
    if able.get("status") == "False":
        return finding(SCALING_ACTIVE, able.get("reason", "Unknown"), able.get("message", ""))
    if autoscaler is None or not active:
        return finding(SCALING_ACTIVE, "Starting", "the autoscaler has yet to look at the load")
    if active.get("status") == "False":
        return _blind(active, seen, _first_sample_due(autoscaler, seen), now)
    limit = _LIMITS.get(limited.get("reason", "")) if limited.get("status") == "True" else None
    if limit:
        words = limit.format(most=asked.max_replicas)
        return Finding(SCALING_ACTIVE, holds=True, reason="ScalingLimited", message=words)
    words = f"the load decides, between {asked.min_replicas} and {asked.max_replicas} replicas"
    return Finding(SCALING_ACTIVE, holds=True, reason="Scaling", message=words)


def _blind(active: Raw, seen: DeploymentSnapshot, due: datetime | None, now: datetime) -> Finding:
    """Why it can not tell how many there should be."""
    reason, message = active.get("reason", "Unknown"), active.get("message", "")
    if not reason.startswith("FailedGet"):
        return finding(SCALING_ACTIVE, reason, message)
    if any(said in message for said in _NO_SERVER):
        return finding(SCALING_ACTIVE, "NoMetricsServer", message)
    if not any(pod.ready and pod.leads for pod in seen.pods):
        return finding(SCALING_ACTIVE, "NoReadyPods", "there is nothing to measure until a replica is ready")
    if due and now < due:
        return finding(SCALING_ACTIVE, "Starting", "the first measurement has yet to reach the autoscaler")
    return finding(SCALING_ACTIVE, "MetricsUnavailable", f"{message}; see `{_look(seen.resource, reason)}`")


def _first_sample_due(autoscaler: Raw, seen: DeploymentSnapshot) -> datetime | None:
    """Until when nobody wonders: some time after there were both an autoscaler and a pod to ask. None: now."""
    made = autoscaler["metadata"].get("creationTimestamp")
    ready = min((pod.ready_at for pod in seen.pods if pod.leads and pod.ready_at), default=None)
    moments = [datetime.fromisoformat(made)] if made else []
    began = max(moments + ([ready] if ready else []), default=None)
    return began + FIRST_SAMPLE if began else None


def _look(resource: Raw, reason: str) -> str:
    """The command that shows what the autoscaler sees."""
    namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
    if reason == "FailedGetExternalMetric":  # KEDA's
        return f"kubectl describe scaledobject {name}"
    # The version that every server of the group serves.
    path = f"/apis/custom.metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/*/{METRIC_QUEUE_DEPTH}"
    return f"kubectl get --raw '{path}'"
