"""The real HorizontalPodAutoscaler, fed by the operator's own custom.metrics.k8s.io with known samples.

Pods never run here, for there is no node: their status is written as a kubelet would, and what they say at /load comes
from this process, each on a loopback address of its own. So every count that the controller sets can be foreseen, and
is held to bench.hpa, which the published thresholds rest on.
"""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from bench.hpa import Autoscaler, Metric
from e2e.harness.api_client import connect
from e2e.harness.control_plane import ControlPlane
from e2e.harness.errors import CommandError
from e2e.stories.operator_api.copies import NAMESPACE, Copy, World, prepare, template
from e2e.stories.operator_api.worlds import claim, conditions, deployment, finish_inspection
from wenxin_operator.api.autoscaling import Autoscaling

CONTROLLERS = (
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "replicaset-controller",
    "serviceaccount-controller",
)
SLOTS = 4
AT_ONCE: dict[str, Any] = {
    "scaleUp": {"policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]},
    "scaleDown": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    },
}
ASKED = {"minReplicas": 1, "maxReplicas": 6, "queueDepth": 5, "behavior": AT_ONCE}
METRIC = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/wenxin_queue_depth"


@dataclass
class Pods:
    """What stands in for kubelets and runtimes.

    Attributes:
        says: Waiting and running, by address; who is not in it does not answer.
    """

    world: World
    says: dict[str, tuple[int, int]] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Serving pods that are not on their way out."""
        label = "serving.wenxin.io/deployment"
        return [
            each["metadata"]["name"]
            for each in self.world.list("pods")
            if each["metadata"]["labels"].get(label) == "tiny" and "deletionTimestamp" not in each["metadata"]
        ]

    def run(self, loads: Sequence[tuple[int, int] | None]) -> None:
        """Let as many pods as there are loads run; one without a load is still loading.

        Nobody answers before all run, and then all do: no autoscaler sees half of a scene.
        """
        self.says.clear()
        speaking = {}
        with connect(self.world.plane.kubeconfig) as client:
            for name, load in zip(self.names(), loads, strict=True):
                address = f"127.0.0.{self._numbers.setdefault(name, len(self._numbers) + 11)}"
                if load:
                    speaking[address] = load
                path = f"/api/v1/namespaces/default/pods/{name}/status"
                headers = {"Content-Type": "application/merge-patch+json"}
                body = json.dumps({"status": _running(address, ready=load is not None)})
                client.patch(path, content=body, headers=headers).raise_for_status()
        self.says.update(speaking)


def _running(address: str, *, ready: bool) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": now}
    places = {"podIP": address, "podIPs": [{"ip": address}]}
    return {"phase": "Running", "startTime": now, "conditions": [condition], **places}


@contextmanager
def speaking(says: dict[str, tuple[int, int]], addresses: int) -> Iterator[None]:
    """Answer /load on as many loopback addresses."""

    class Load(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            load = says.get(self.connection.getsockname()[0])
            words = {"waiting": load[0], "running": load[1], "slots": SLOTS, "queue_size": 100} if load else {}
            body = json.dumps(words).encode()
            self.send_response(200 if load else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
            del format, args

    servers = [ThreadingHTTPServer((f"127.0.0.{number}", 8000), Load) for number in range(11, 11 + addresses)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        with ThreadPoolExecutor(addresses) as pool:  # each waits for half a second
            list(pool.map(ThreadingHTTPServer.shutdown, servers))
        for server in servers:
            server.server_close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A control plane whose API server reaches the operator of this machine by a Service's name."""
    with ControlPlane(controllers=CONTROLLERS, apiserver_flags=["--enable-aggregator-routing=false"]) as plane:
        yield prepare(plane)


def aggregate(world: World) -> int:
    """The chart's part of the metrics API, with a Service that leads to this machine; returns the operator's port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    rendered = template("--show-only=templates/metrics-api.yaml")
    for each in yaml.safe_load_all(rendered):
        if each["kind"] == "Service":
            each["spec"] = {"type": "ExternalName", "externalName": "localhost"}
        if each["kind"] == "APIService":
            each["spec"]["service"]["port"] = port
        world.apply(each)
    return port


def foreseen(current: int, loads: Sequence[tuple[int, int]], loading: int) -> int:
    """Where the autoscaler comes to rest, by bench.hpa: what it adds does not run yet, what loads goes first."""
    asked = Autoscaling.model_validate(ASKED)
    autoscaler, serving, now = Autoscaler(asked), list(loads), 0.0
    for _ in range(10):
        pending = current - len(serving) - loading
        targets = (asked.queue_depth * 1000, asked.running_percent * SLOTS * 10)
        metrics = [
            Metric(tuple(load[i] * 1000 for load in serving), target, loading, pending)
            for i, target in enumerate(targets)
        ]
        wanted, now = autoscaler.step(now, current, metrics), now + 60
        gone = max(0, current - wanted - pending)
        loading, over = max(0, loading - gone), max(0, gone - loading)
        serving = serving[: len(serving) - over]
        if wanted == current:
            return wanted
        current = wanted
    raise AssertionError("it never comes to rest")


def count(world: World) -> int:
    """spec.replicas, which the autoscaler owns."""
    return int((world.get("wd", "tiny") or {})["spec"]["replicas"])


def looks(world: World) -> int:
    """How often the autoscaler has begun to look: it reads the scale first, and nobody else does."""
    told = world.plane.kubectl("get", "--raw", "/metrics")
    samples = re.findall(r"^apiserver_request_total\{(.*)\} (\d+)$", told, re.MULTILINE)
    return sum(int(seen) for labels, seen in samples if 'subresource="scale"' in labels and 'verb="GET"' in labels)


def says(world: World, condition: str) -> str:
    """The status of one condition of the autoscaler's own."""
    found = (world.get("hpa", "tiny") or {}).get("status", {}).get("conditions") or ()
    return next((each["status"] for each in found if each["type"] == condition), "Unknown")


def measured(world: World) -> tuple[str, ...]:
    """The averages that the autoscaler went by last."""
    status = (world.get("hpa", "tiny") or {}).get("status", {})
    return tuple(
        each.get("pods", {}).get("current", {}).get("averageValue", "") for each in status.get("currentMetrics") or ()
    )


SCENES: tuple[tuple[str, tuple[tuple[int, int] | None, ...]], ...] = (
    ("a burst on one replica", ((20, 4),)),
    ("all at their targets", ((5, 3), (5, 3), (5, 3), (5, 3))),
    ("a little more", ((6, 0), (6, 0), (6, 0), (6, 0))),
    ("places full, nobody waits", ((0, 4), (0, 4), (0, 4), (0, 4), (0, 4))),
    ("much waits, but others load", ((8, 4), (8, 4), (8, 4), None, None, None)),
    ("nothing to do", ((0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0))),
)


@pytest.fixture(scope="module")
def scaled(world: World) -> Iterator[tuple[Copy, Pods]]:
    """A deployment with an autoscaler and one replica."""
    port, pods = aggregate(world), Pods(world)
    settings = {"METRICS_PROVIDER": "embedded", "METRICS_HTTPS_PORT": str(port), "METRICS_INTERVAL": "200ms"}
    with speaking(pods.says, 40), world.operator(**settings) as copy:
        world.apply(claim(), deployment("tiny", engine={"maxNumSeqs": SLOTS}, autoscaling=ASKED))
        copy.wait(lambda: world.list("pods"), "the inspect pod")
        finish_inspection(world, "tiny")
        copy.wait(lambda: len(pods.names()) == 1, "a serving pod")
        # The controller looks for kinds that are new to it every 30 s only.
        copy.wait(lambda: says(world, "AbleToScale") == "True", "the autoscaler to find our kind", seconds=60)
        yield copy, pods


def test_the_real_autoscaler_counts_as_the_simulation_does(world: World, scaled: tuple[Copy, Pods]) -> None:
    copy, pods = scaled
    for scene, loads in SCENES:
        copy.wait(lambda: len(pods.names()) == len(loads), f"{len(loads)} pods for: {scene}", seconds=60)  # noqa: B023 - called at once
        serving = [load for load in loads if load]
        wanted = foreseen(len(loads), serving, len(loads) - len(serving))
        pods.run(loads)
        averages = tuple(str(sum(load[i] for load in serving) // len(serving)) for i in range(2))
        copy.wait(lambda: measured(world) == averages, f"the autoscaler to see: {scene}", seconds=30)  # noqa: B023 - same
        copy.wait(lambda: count(world) == wanted, f"{wanted} replicas after: {scene}", seconds=30)  # noqa: B023 - same
        if wanted == len(loads):
            looked = looks(world)
            copy.wait(lambda: looks(world) >= looked + 3, f"two whole looks at: {scene}", seconds=30)  # noqa: B023 - same
            assert count(world) == wanted, scene
    refused = [name for name in copy.metrics() if 'api_requests_total{code="403"' in name and "metrics_api" not in name]
    assert refused == [], "the chart's rights are enough"


def test_the_condition_says_that_the_load_decides(world: World, scaled: tuple[Copy, Pods]) -> None:
    copy, _ = scaled
    copy.wait(lambda: conditions(world, "tiny").get("ScalingActive", {}).get("status") == "True", "ScalingActive")
    for version in ("v1beta1", "v1beta2"):
        world.plane.kubectl("wait", "--for=condition=Available", f"apiservice/{version}.custom.metrics.k8s.io")


def test_who_may_not_is_told_nothing(world: World, scaled: tuple[Copy, Pods]) -> None:
    assert json.loads(world.plane.kubectl("get", "--raw", METRIC))["kind"] == "MetricValueList"
    with pytest.raises(CommandError, match="Forbidden"):
        world.plane.kubectl("get", "--raw", METRIC, "--as=ann")
    del scaled


def test_another_autoscaler_takes_ours_away_until_it_goes(world: World, scaled: tuple[Copy, Pods]) -> None:
    copy, _ = scaled
    ours = world.get("hpa", "tiny") or {}
    spec = {key: ours["spec"][key] for key in ("scaleTargetRef", "minReplicas", "maxReplicas", "metrics")}
    world.apply({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": spec} | _named("theirs"))
    copy.wait(lambda: world.get("hpa", "tiny") is None, "ours to go")
    copy.wait(lambda: conditions(world, "tiny")["ScalingActive"]["reason"] == "AnotherAutoscaler", "the condition")
    world.plane.kubectl("delete", "hpa", "theirs")
    copy.wait(lambda: world.get("hpa", "tiny"), "ours to come back")


def test_at_rest_the_certificates_upkeep_writes_nothing(world: World, scaled: tuple[Copy, Pods]) -> None:
    copy, _ = scaled
    secret = world.get("secret", "wenxin-operator-metrics-api", NAMESPACE) or {}
    assert set(secret["data"]) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    assert copy.metrics()['wenxin_operator_metrics_api_requests_total{code="200"}'] > 0
    assert copy.metrics()['wenxin_operator_load_polls_total{outcome="answered"}'] > 0


def _named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}}
