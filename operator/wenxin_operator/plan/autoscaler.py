"""The object that sets the count: a HorizontalPodAutoscaler, or a ScaledObject of which KEDA makes one.

Both point at the WenxinDeployment's /scale. The metrics carry the same names whoever serves them: the operator itself
(docs/autoscaling.md), prometheus-adapter with the rules that the chart ships, or Prometheus behind KEDA.
"""

from dataclasses import dataclass

from wenxin_operator.api.autoscaling import Autoscaling
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import (
    API_VERSION,
    COMPONENT_RUNTIME,
    HORIZONTAL_POD_AUTOSCALER,
    METRIC_QUEUE_DEPTH,
    METRIC_RUNNING,
    SCALED_OBJECT,
    WENXIN_DEPLOYMENT,
    Raw,
)
from wenxin_operator.plan.manifest import OperatorSettings, Owner
from wenxin_operator.pods import Problem
from wenxin_operator.scalers import Scalers

KEDA = "keda"
NO_PROVIDER = "none"
KEDA_POLLS_SECONDS = 15
"""As often as a HorizontalPodAutoscaler looks."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """What should set the count.

    Attributes:
        manifest: It, where there should be one.
        problem: Why there should be none though the spec asks for it.
    """

    manifest: Raw | None = None
    problem: Problem | None = None


def plan(
    owner: Owner, spec: DeploymentSpec, running: DeploymentSpec, others: Scalers, settings: OperatorSettings
) -> Scaler:
    """Plan it.

    Args:
        owner: The WenxinDeployment.
        spec: What is accepted: says between which counts, and how fast.
        running: What the pods follow: says how many sequences each may run.
        others: What else sets the count. Two would fight, so with another there is none of ours.
        settings: The operator's.
    """
    asked = spec.autoscaling
    if asked is None:
        return Scaler()
    if problem := _hindrance(others, settings):
        return Scaler(problem=problem)
    targets = {METRIC_QUEUE_DEPTH: asked.queue_depth * 1000, METRIC_RUNNING: _running_target(asked, running)}
    if settings.metrics_provider == KEDA:
        return Scaler(_scaled_object(owner, asked, targets, settings.prometheus_address))
    return Scaler(_horizontal_pod_autoscaler(owner, asked, targets))


def _hindrance(others: Scalers, settings: OperatorSettings) -> Problem | None:
    if others.rivals:
        they = " and ".join(others.rivals)
        return Problem("AnotherAutoscaler", f"{they} of this namespace set{'s' * (len(others.rivals) == 1)} the count")
    if settings.metrics_provider == NO_PROVIDER:
        return Problem("NoMetricsProvider", "the operator was installed with metrics.provider none")
    if settings.metrics_provider == KEDA and not others.keda:
        return Problem("KedaNotInstalled", "metrics.provider is keda, and the cluster has no ScaledObjects")
    return None


def _running_target(asked: Autoscaling, running: DeploymentSpec) -> int:
    """In thousandths of a sequence: 80 % of 32 is 25.6."""
    return asked.running_percent * running.engine.max_num_seqs * 10


def _horizontal_pod_autoscaler(owner: Owner, asked: Autoscaling, targets: dict[str, int]) -> Raw:
    metrics = [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": name},
                "target": {"type": "AverageValue", "averageValue": _quantity(thousandths)},
            },
        }
        for name, thousandths in targets.items()
    ]
    return owner.child(
        HORIZONTAL_POD_AUTOSCALER,
        owner.key.name,
        COMPONENT_RUNTIME,
        spec={
            "scaleTargetRef": _target(owner),
            "minReplicas": asked.min_replicas,
            "maxReplicas": asked.max_replicas,
            "metrics": metrics,
            "behavior": _behavior(asked),
        },
    )


def _scaled_object(owner: Owner, asked: Autoscaling, targets: dict[str, int], prometheus: str) -> Raw:
    """With no fallback: a count that is made up hides that there are no metrics."""
    place = f'namespace="{owner.key.namespace}",deployment="{owner.key.name}"'
    triggers = [
        {
            "type": "prometheus",
            "name": name.replace("_", "-"),
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": prometheus,
                "query": f"sum({name}{{{place}}})",
                "threshold": f"{thousandths / 1000:g}",
                "ignoreNullValues": "false",  # a series that is missing is missing, not zero
            },
        }
        for name, thousandths in targets.items()
    ]
    return owner.child(
        SCALED_OBJECT,
        owner.key.name,
        COMPONENT_RUNTIME,
        spec={
            "scaleTargetRef": _target(owner),
            "pollingInterval": KEDA_POLLS_SECONDS,
            "minReplicaCount": asked.min_replicas,
            "maxReplicaCount": asked.max_replicas,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(asked)}},
            "triggers": triggers,
        },
    )


def _target(owner: Owner) -> Raw:
    return {"apiVersion": API_VERSION, "kind": WENXIN_DEPLOYMENT, "name": owner.key.name}


def _behavior(asked: Autoscaling) -> Raw:
    return asked.behavior.model_dump(mode="json", by_alias=True)


def _quantity(thousandths: int) -> str:
    """As the API server writes it back, so that what lives is what was planned."""
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)
