"""The page of metrics, from what both halves register."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from docs.markdown import code, table
from wenxin_operator.telemetry import Telemetry
from wenxin_runtime.ipc import EngineStats, Ready
from wenxin_runtime.telemetry import Metrics

_HEAD = """\
# Metrics

Prometheus text at `/metrics`. Every series is there from the start, at zero. Seconds and bytes are the units; a
histogram `NAME` has the series `NAME_bucket`, `NAME_sum` and `NAME_count`. The usual `process_*` series come along.
"""


# The labels of what is told of each resource are only known once there is one.
_RESOURCE = {
    "metadata": {"namespace": "here", "name": "ernie"},
    "spec": {"autoscaling": {"maxReplicas": 2}},
    "status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Answering"}],
        "download": {"doneBytes": 1, "totalBytes": 2},
    },
}


@dataclass(frozen=True)
class Family:
    """One metric as a query names it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    documentation: str


@dataclass(frozen=True)
class _IdleEngine:
    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0
    stats: EngineStats = field(default_factory=EngineStats)


def metrics_page() -> str:
    """One table for each half."""
    return (
        _HEAD
        + "\n## Runtime, port 8000 of a model pod\n\n"
        + _table(runtime_families())
        + "\n## Operator, port 8080 of its pod\n\n"
        + _table(operator_families())
    )


def families() -> Iterator[Family]:
    """All metrics of the project."""
    yield from runtime_families()
    yield from operator_families()


def runtime_families() -> Iterator[Family]:
    """What a model pod tells."""
    metrics = Metrics(slots=1)
    metrics.watch(_IdleEngine())
    ready = Ready(
        max_model_len=1, kv_blocks=1, block_size=1, device="cpu", dtype="float32", parameters=1, load_seconds=0
    )
    metrics.engine_ready(ready, "")
    return _families(metrics.registry)


def operator_families() -> Iterator[Family]:
    """What the operator tells."""
    telemetry = Telemetry()
    telemetry.show(queue=int, running=int, age=float, leader=bool, resources=lambda _: (_RESOURCE,))
    telemetry.requested("GET", "pods", 200)  # its labels are only known once there was a request
    return _families(telemetry.registry)


def _families(registry: CollectorRegistry) -> Iterator[Family]:
    found = (metric for metric in registry.collect() if not metric.name.startswith("process_"))
    for metric in sorted(found, key=lambda metric: metric.name):
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        yield Family(_exposed(metric), metric.type, tuple(sorted(labels)), metric.documentation)


def _exposed(metric: Metric) -> str:
    """The text format adds a suffix to counters and infos."""
    return metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")


def _table(rows: Iterable[Family]) -> str:
    cells = [(code(row.name), row.kind, ", ".join(map(code, row.labels)), row.documentation) for row in rows]
    return table(["metric", "type", "labels", "meaning"], cells)
