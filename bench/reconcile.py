"""How fast the operator follows a change, and what it costs at rest, with 1 and with 100 idle resources.

A real API server and etcd, no nodes: what is measured is the operator alone. `python -m bench.reconcile`.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from bench import environment
from e2e.harness.api_client import connect
from e2e.harness.control_plane import ControlPlane
from wenxin_operator.names import API_VERSION, content_hash

CRDS = Path(__file__).parent.parent / "crds"
NAMESPACE = "default"
SOURCE = "pvc://weights/model"
RESYNC_SECONDS = 10
DEADLINE_SECONDS = 120
OURS = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
MERGE = {"Content-Type": "application/merge-patch+json"}
_PORT = re.compile(r"probes and metrics on port (\d+)")
T = TypeVar("T")
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One run. Latencies are seconds from the answer to our PATCH until a watcher would see the effect."""

    resources: int
    settle_seconds: float
    child_seconds: list[float]
    status_seconds: list[float]
    resident_bytes: int
    cpu_seconds_per_minute_at_rest: float
    writes_at_rest: int

    def row(self) -> dict[str, Any]:
        """What is published."""
        return {
            "resources": self.resources,
            "settle_seconds": round(self.settle_seconds, 2),
            "child_applied_ms": _spread(self.child_seconds),
            "status_written_ms": _spread(self.status_seconds),
            "resident_mib": round(self.resident_bytes / 2**20, 1),
            "cpu_seconds_per_minute_at_rest": round(self.cpu_seconds_per_minute_at_rest, 2),
            "writes_at_rest": self.writes_at_rest,
        }


class Operator:
    """The operator's process, looked at from outside."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        port = _until(lambda: _PORT.search(log.read_text()), f"the operator to listen; see {log}")
        self._metrics = f"http://127.0.0.1:{port[1]}/metrics"

    def total(self, metric: str) -> float:
        """The sum of a metric over its labels."""
        return sum(float(value) for _, value in self._samples(metric))

    def writes(self) -> float:
        """Requests that changed an object, but for the Lease, which is renewed for as long as the operator lives."""
        samples = self._samples("wenxin_operator_writes_total")
        return sum(float(value) for labels, value in samples if 'resource="leases"' not in labels)

    def _samples(self, metric: str) -> list[tuple[str, str]]:
        text = httpx.get(self._metrics, trust_env=False).text
        return re.findall(rf"^{metric}((?:{{[^}}]*}})?) (\S+)$", text, re.MULTILINE)

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        """Processor time since its start."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def measure(count: int, changes: int) -> Measured:
    """Bring `count` resources to rest, then change one of them `changes` times."""
    with ControlPlane() as plane, connect(plane.kubeconfig) as api, tempfile.TemporaryDirectory() as scratch:
        plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        _create_verified_model(api)
        for number in range(count):
            _create_deployment(api, number)
        with _operating(plane.kubeconfig, Path(scratch) / "operator.log") as operator:
            started = time.perf_counter()
            _until(lambda: len(api.get(DEPLOYMENTS).json()["items"]) == count, "all children")
            _until(lambda: _at_rest(operator), "rest")
            settled = time.perf_counter() - started
            latencies = [_change(api, number) for number in range(changes)]
            _until(lambda: _at_rest(operator), "rest")
            cpu, writes = _idle(operator)
            return Measured(
                count,
                settled,
                [a for a, _ in latencies],
                [b for _, b in latencies],
                operator.resident_bytes,
                cpu,
                writes,
            )


@contextlib.contextmanager
def _operating(kubeconfig: Path, log: Path) -> Iterator[Operator]:
    settings = {
        "KUBECONFIG": str(kubeconfig),
        "HTTP_PORT": "0",
        "HTTP_HOST": "127.0.0.1",
        "RESYNC_INTERVAL": f"{RESYNC_SECONDS}s",
        "LEASE_NAMESPACE": NAMESPACE,
    }
    variables = os.environ | {f"WENXIN_OPERATOR_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "wenxin_operator"]
    with log.open("wb") as sink, subprocess.Popen(command, env=variables, stdout=sink, stderr=sink) as process:
        try:
            yield Operator(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _create_verified_model(api: httpx.Client) -> None:
    """A claim, and a WenxinModel whose inspection lies behind it: there is no node to run the Job."""
    access = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = _post(
        api, f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", "v1", "PersistentVolumeClaim", "weights", access
    )
    _post(api, f"{OURS}/wenxinmodels", API_VERSION, "WenxinModel", "weights", {"source": SOURCE})
    status = {
        "observedGeneration": 1,
        "sourceHash": content_hash([SOURCE, claim["metadata"]["uid"]], length=16),
        "digest": "sha256:" + "0" * 64,
        "facts": {
            "architecture": "Ernie4_5ForCausalLM",
            "parameters": 10**9,
            "contextLength": 131072,
            "dtype": "bfloat16",
        },
    }
    path = f"{OURS}/wenxinmodels/weights/status"
    api.patch(path, headers=MERGE, content=json.dumps({"status": status})).raise_for_status()


def _create_deployment(api: httpx.Client, number: int) -> None:
    """Idle: at zero replicas every child exists, and there is nothing to wait for."""
    spec = {"model": {"ref": "weights"}, "replicas": 0, "accelerator": {"resource": "none"}}
    _post(api, f"{OURS}/wenxindeployments", API_VERSION, "WenxinDeployment", f"idle-{number}", spec)


def _post(api: httpx.Client, path: str, version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    created: dict[str, Any] = api.post(path, json=body).raise_for_status().json()
    return created


def _change(api: httpx.Client, number: int) -> tuple[float, float]:
    """Change a flag; returns how long the Deployment and the status took to follow."""
    path = f"{OURS}/wenxindeployments/idle-0"
    before = api.get(f"{DEPLOYMENTS}/idle-0").json()["metadata"]["generation"]
    patch = json.dumps({"spec": {"engine": {"queueSize": 200 + number}}})
    generation = api.patch(path, headers=MERGE, content=patch).raise_for_status().json()["metadata"]["generation"]
    started = time.perf_counter()

    def followed() -> bool:
        return bool(api.get(f"{DEPLOYMENTS}/idle-0").json()["metadata"]["generation"] > before)

    def told() -> bool:
        return bool(api.get(path).json()["status"].get("observedGeneration", 0) >= generation)

    child = _until(lambda: followed() and time.perf_counter() - started, "the Deployment", every=0.001)
    status = _until(lambda: told() and time.perf_counter() - started, "the status", every=0.001)
    return child, status


def _idle(operator: Operator) -> tuple[float, int]:
    """Processor time per minute, and writes but for the Lease's, over three resyncs."""
    seconds = 3.0 * RESYNC_SECONDS
    cpu, writes = operator.cpu_seconds, operator.writes()
    time.sleep(seconds)
    return (operator.cpu_seconds - cpu) * 60 / seconds, int(operator.writes() - writes)


def _at_rest(operator: Operator) -> bool:
    busy = ("wenxin_operator_queue_length", "wenxin_operator_queue_running")
    return operator.total("wenxin_operator_reconcile_total") > 0 and not any(map(operator.total, busy))


def _until(check: Callable[[], T | None], what: str, *, every: float = 0.05) -> T:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE_SECONDS} s for {what}")
        time.sleep(every)
    return answer


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"p50": round(cuts[9] * 1e3, 1), "p95": round(cuts[18] * 1e3, 1), "max": round(max(seconds) * 1e3, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size in an API server of its own, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.reconcile", description=__doc__)
    parser.add_argument("--resources", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--changes", type=int, default=50)
    options = parser.parse_args(arguments)
    recording = environment.Recording(rates=False)
    rows = [measure(count, options.changes).row() for count in options.resources]
    print(json.dumps(rows, indent=2))
    plan = {"changes": options.changes, "resync_seconds": RESYNC_SECONDS}
    print(f"written to {environment.write_result('reconcile', recording.facts(), rows, plan=plan)}")


if __name__ == "__main__":
    main()
