"""How fast the operator follows a change, and what it costs at rest, with 1 and with 100 idle resources.

A real API server and etcd, no nodes: what is measured is the operator alone. `python -m bench.reconcile`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import environment
from bench.operator_process import (
    DEFAULT_NAMESPACE,
    MERGE,
    Operator,
    at_rest,
    create_verified_model,
    operating,
    ours,
    post,
    until,
)
from e2e.harness.api_client import connect
from e2e.harness.control_plane import ControlPlane
from wenxin_operator.names import API_VERSION

CRDS = Path(__file__).parent.parent / "crds"
RESYNC_SECONDS = 10
OURS = ours(DEFAULT_NAMESPACE)
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{DEFAULT_NAMESPACE}/deployments"


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


def measure(count: int, changes: int) -> Measured:
    """Bring `count` resources to rest, then change one of them `changes` times."""
    with ControlPlane() as plane, connect(plane.kubeconfig) as api, tempfile.TemporaryDirectory() as scratch:
        plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        create_verified_model(api)
        for number in range(count):
            _create_deployment(api, number)
        with operating(plane.kubeconfig, Path(scratch) / "operator.log", RESYNC_SECONDS) as operator:
            started = time.perf_counter()
            until(lambda: len(api.get(DEPLOYMENTS).json()["items"]) == count, "all children")
            until(lambda: at_rest(operator), "rest")
            settled = time.perf_counter() - started
            latencies = [_change(api, number) for number in range(changes)]
            until(lambda: at_rest(operator), "rest")
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


def _create_deployment(api: httpx.Client, number: int) -> None:
    """Idle: at zero replicas every child exists, and there is nothing to wait for."""
    spec = {"model": {"ref": "weights"}, "replicas": 0, "accelerator": {"resource": "none"}}
    post(api, f"{OURS}/wenxindeployments", API_VERSION, "WenxinDeployment", f"idle-{number}", spec)


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

    child = until(lambda: followed() and time.perf_counter() - started, "the Deployment", every=0.001)
    status = until(lambda: told() and time.perf_counter() - started, "the status", every=0.001)
    return child, status


def _idle(operator: Operator) -> tuple[float, int]:
    """Processor time per minute, and writes but for the Lease's, over three resyncs."""
    seconds = 3.0 * RESYNC_SECONDS
    cpu, writes = operator.cpu_seconds, operator.writes()
    time.sleep(seconds)
    return (operator.cpu_seconds - cpu) * 60 / seconds, int(operator.writes() - writes)


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
