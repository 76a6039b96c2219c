"""What each resource says of itself, as metrics: its conditions, replicas and GPUs. Read from the store when asked.

A series for every condition of every resource, as kube-state-metrics does for Kubernetes' own kinds: a thousand
deployments are some ten thousand series. The labels `namespace` and `deployment` are those that the pods' own series
get from their scrape configuration, so that the two can be joined; whoever scrapes them honours ours.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wenxin_operator.names import WENXIN_DEPLOYMENT, WENXIN_MODEL, Raw

_PREFIX = "wenxin_operator_"


class Inventory(Collector):
    """One pass over what is stored for each scrape."""

    def __init__(self, resources: Callable[[str], Iterable[Raw]]) -> None:
        """`resources` gives all stored resources of a kind."""
        self._resources = resources

    def collect(self) -> Iterator[Metric]:
        """All families, present even where there is no resource."""
        deployments = list(self._resources(WENXIN_DEPLOYMENT))
        yield _conditions("deployment", "a WenxinDeployment", deployments)
        models = list(self._resources(WENXIN_MODEL))
        yield _conditions("model", "a WenxinModel", models)
        yield _downloads(models)
        yield from _sizes(deployments)


def _conditions(label: str, what: str, resources: Iterable[Raw]) -> Metric:
    family = GaugeMetricFamily(
        f"{_PREFIX}{label}_condition",
        f"1 while a condition of {what} is True, else 0; the reason is the condition's.",
        labels=["namespace", label, "condition", "reason"],
    )
    for resource in resources:
        for condition in _status(resource).get("conditions") or ():
            values = [*_place(resource), condition["type"], condition.get("reason", "")]
            family.add_metric(values, condition["status"] == "True")
    return family


def _downloads(models: Iterable[Raw]) -> Metric:
    """How far each download is, or was when it ended."""
    family = GaugeMetricFamily(
        f"{_PREFIX}model_download_bytes",
        "Bytes of the weights of a WenxinModel that is fetched: on its claim, and in all.",
        labels=["namespace", "model", "state"],
    )
    for resource in models:
        download = _status(resource).get("download") or {}
        for state, field in (("done", "doneBytes"), ("total", "totalBytes")):
            if field in download:
                family.add_metric([*_place(resource), state], download[field])
    return family


def _sizes(deployments: Iterable[Raw]) -> tuple[Metric, ...]:
    """Counts of replicas, where several pods of a group are one; and of GPUs."""
    where = ["namespace", "deployment"]
    replicas = GaugeMetricFamily(
        f"{_PREFIX}deployment_replicas",
        "Replicas of a WenxinDeployment: wanted by its spec, present, and ready.",
        labels=[*where, "state"],
    )
    most = GaugeMetricFamily(
        f"{_PREFIX}deployment_replicas_max", "What autoscaling may go up to; only where it is set.", labels=where
    )
    gpus = GaugeMetricFamily(f"{_PREFIX}deployment_gpus", "GPUs of the replicas that are present.", labels=where)
    for resource in deployments:
        place, spec, status = _place(resource), resource.get("spec") or {}, _status(resource)
        replicas.add_metric([*place, "wanted"], spec.get("replicas", 1))
        replicas.add_metric([*place, "present"], status.get("replicas", 0))
        replicas.add_metric([*place, "ready"], status.get("readyReplicas", 0))
        gpus.add_metric(place, status.get("gpus", 0))
        if limit := (spec.get("autoscaling") or {}).get("maxReplicas"):
            most.add_metric(place, limit)
    return replicas, most, gpus


def _place(resource: Raw) -> list[str]:
    metadata = resource["metadata"]
    return [metadata["namespace"], metadata["name"]]


def _status(resource: Raw) -> Raw:
    return resource.get("status") or {}
