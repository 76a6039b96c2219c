"""The operator's own metrics, all present from the start at zero, and its log lines. Seconds are the unit of time."""

import datetime as dt
import json
import logging
import platform
import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wenxin_operator.inventory import Inventory
from wenxin_operator.names import OWNER_LABEL, RESOURCES, Key, Raw
from wenxin_operator.version import VERSION as VERSION  # noqa: PLC0414 - also known from here

ABOUT: ContextVar[Key | None] = ContextVar("ABOUT", default=None)
"""The resource that this task works on: every log line names it."""

OUTCOMES = ("changed", "unchanged", "failed")
WRITES = ("PATCH", "DELETE")
POLLS = ("answered", "missing")
METRIC_CODES = ("200", "400", "401", "403", "404", "405", "500", "503")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """One registry and what is counted in it. What is a function of other parts is given to `show`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, which nobody reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        prefix: dict[str, Any] = {"namespace": "wenxin_operator", "registry": self.registry}
        self._seconds = Histogram("reconcile_seconds", "Duration of one pass.", ["kind"], buckets=BUCKETS, **prefix)
        self._passes = Counter("reconcile_total", "Passes, by what came of them.", ["kind", "outcome"], **prefix)
        self._requests = Counter(
            "api_requests_total", "Answers of the API server; code 0 is none.", ["method", "resource", "code"], **prefix
        )
        self._writes = Counter("writes_total", "Requests that change an object.", ["method", "resource"], **prefix)
        self._queue = Gauge("queue_length", "Resources that wait for a pass.", **prefix)
        self._running = Gauge("queue_running", "Resources in a pass now.", **prefix)
        self._age = Gauge("watch_age_seconds", "Time since the oldest kind was last listed in full.", **prefix)
        self._leader = Gauge("leader", "1 while this copy holds the lease.", **prefix)
        self._polls = Counter(
            "load_polls_total", "Pods that were asked how busy they are, for autoscalers.", ["outcome"], **prefix
        )
        self._samples = Gauge("load_samples", "Pods whose load autoscalers are told.", **prefix)
        self._metric_answers = Counter(
            "metrics_api_requests_total", "Answers of custom.metrics.k8s.io, by HTTP status.", ["code"], **prefix
        )
        for outcome in POLLS:
            self._polls.labels(outcome)
        for code in METRIC_CODES:
            self._metric_answers.labels(code)
        Info("build", "Versions.", **prefix).info({"version": VERSION, "python": platform.python_version()})
        for kind in OWNER_LABEL:
            self._seconds.labels(kind)
            for outcome in OUTCOMES:
                self._passes.labels(kind, outcome)
        for resource in RESOURCES.values():
            for method in WRITES:
                self._writes.labels(method, resource.plural)

    def show(
        self,
        *,
        queue: Callable[[], int],
        running: Callable[[], int],
        age: Callable[[], float],
        leader: Callable[[], bool],
        resources: Callable[[str], Iterable[Raw]],
    ) -> None:
        """Say where the numbers that are only looked up come from.

        Args:
            queue: Keys that are due.
            running: Keys with a worker.
            age: Seconds since the oldest kind was listed.
            leader: Whether this copy holds the lease.
            resources: All stored resources of a kind.
        """
        self._queue.set_function(queue)
        self._running.set_function(running)
        self._age.set_function(age)
        self._leader.set_function(leader)
        self.registry.register(_Resources(resources))
        self.registry.register(Inventory(resources))

    def passed(self, kind: str, outcome: Literal["changed", "unchanged", "failed"], seconds: float) -> None:
        """Count one pass."""
        self._seconds.labels(kind).observe(seconds)
        self._passes.labels(kind, outcome).inc()

    def requested(self, method: str, resource: str, code: int) -> None:
        """Count one answer of the API server; code 0 when there was none."""
        self._requests.labels(method, resource, str(code)).inc()
        if method not in ("GET", "WATCH"):
            self._writes.labels(method, resource).inc()

    def polled(self, answered: bool) -> None:
        """Count one pod that was asked how busy it is."""
        self._polls.labels(POLLS[0] if answered else POLLS[1]).inc()

    def metrics_answered(self, code: int) -> None:
        """Count one answer of the metrics API."""
        self._metric_answers.labels(str(code)).inc()

    def show_samples(self, number: Callable[[], int]) -> None:
        """Say where the number of pods with a sample comes from."""
        self._samples.set_function(number)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Resources(Collector):
    """wenxin_operator_resources: how many resources have which condition with which status."""

    def __init__(self, resources: Callable[[str], Iterable[Raw]]) -> None:
        self._resources = resources

    def collect(self) -> Iterable[Metric]:
        """Count them as they are stored now."""
        family = GaugeMetricFamily(
            "wenxin_operator_resources",
            "Resources by condition and its status.",
            labels=["kind", "condition", "status"],
        )
        for kind in OWNER_LABEL:
            tally = Tally(
                (condition["type"], condition["status"])
                for resource in self._resources(kind)
                for condition in (resource.get("status") or {}).get("conditions") or ()
            )
            for status in ("True", "False", "Unknown"):
                tally.setdefault(("Ready", status), 0)
            for (condition, status), count in sorted(tally.items()):
                family.add_metric([kind, condition, status], count)
        yield family


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; `key` is the resource that it is about: kind, namespace, name."""
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if key := ABOUT.get():
            line["key"] = "/".join(key)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Lines for people, the resource at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        key = ABOUT.get()
        return super().format(record) + (f"  [{'/'.join(key)}]" if key else "")


def log_to_stderr(level: str, form: str) -> None:
    """Send every log line to standard error. kopf's own chatter, one line per event, is held down.

    Args:
        level: Least severe level.
        form: json or text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level in ("info", "warning"):
        for noisy in ("kopf", "aiohttp.access"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
