"""The operator with a thousand deployments and five thousand pods: start, passes, memory, and what it asks at rest.

A real API server, etcd, scheduler and controllers; kwok stands in for the kubelets. `python -m bench.operator_scale`.
"""

import argparse
import concurrent.futures
import json
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx

from bench import environment
from bench.operator_process import Operator, at_rest, create_verified_model, operating, ours, post, until
from e2e.harness.api_client import connect
from e2e.harness.control_plane import ControlPlane
from wenxin_operator.names import API_VERSION

CRDS = Path(__file__).parent.parent / "crds"
NAMESPACES = 20
NODES = 20
RESYNC_SECONDS = 120  # the chart's default
ROLLOUT_SECONDS = 1500
START_SECONDS = 300
CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "disruption-controller",
    "serviceaccount-controller",
    "persistentvolume-binder-controller",
)
# What an operator that does nothing does all the same: it keeps its lease.
LEASE = 'resource="leases"'
_LE = re.compile(r'le="([^"]+)"')


def measure(deployments: int, replicas: int, rest_seconds: float = RESYNC_SECONDS) -> dict[str, Any]:
    """Make them all, start the operator anew, and look at it while it works and while it rests."""
    with (
        ControlPlane(controllers=CONTROLLERS, scheduler=True, pretended_nodes=NODES) as plane,
        connect(plane.kubeconfig) as api,
        tempfile.TemporaryDirectory() as scratch,
    ):
        plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        _create(api, deployments, replicas)
        with operating(plane.kubeconfig, Path(scratch) / "first.log", RESYNC_SECONDS) as operator:
            began = time.perf_counter()
            until(lambda: _ready(api) == deployments, "all to be Ready", every=2.0, seconds=ROLLOUT_SECONDS)
            until(lambda: at_rest(operator), "rest")
            made = time.perf_counter() - began
            first = _passes(operator) | {"most_resident_mib": _mib(operator.most_resident_bytes)}
        began = time.perf_counter()
        with operating(plane.kubeconfig, Path(scratch) / "second.log", RESYNC_SECONDS) as operator:
            until(lambda: _seen(operator) >= deployments and at_rest(operator), "rest", seconds=START_SECONDS)
            started = time.perf_counter() - began
            second = _passes(operator) | {"most_resident_mib": _mib(operator.most_resident_bytes)}
            rest = _rest(operator, rest_seconds)
        pods = sum(_count(api, f"/api/v1/namespaces/{name}/pods") for name in _namespaces())
    return {
        "deployments": deployments,
        "pods": pods,
        "first_rollout_seconds": round(made, 1),
        "first_rollout": first,
        "restart_seconds": round(started, 1),
        "restart": second,
        "at_rest": rest,
    }


def _namespaces() -> list[str]:
    return [f"team-{number}" for number in range(NAMESPACES)]


def _create(api: httpx.Client, deployments: int, replicas: int) -> None:
    for name in _namespaces():
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        api.post("/api/v1/namespaces", json=namespace).raise_for_status()
        api.post("/api/v1/persistentvolumes", json=_volume(name)).raise_for_status()
        create_verified_model(api, name)
    spec = {"model": {"ref": "weights"}, "replicas": replicas, "accelerator": {"resource": "none"}}

    def create(number: int) -> None:
        namespace = _namespaces()[number % NAMESPACES]
        post(api, f"{ours(namespace)}/wenxindeployments", API_VERSION, "WenxinDeployment", f"wd-{number}", spec)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(create, range(deployments)))


def _volume(namespace: str) -> dict[str, Any]:
    """What the namespace's claim is bound to, so that pods can be scheduled."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"weights-{namespace}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/nowhere"},
            "claimRef": {"namespace": namespace, "name": "weights"},
        },
    }


def _ready(api: httpx.Client) -> int:
    """Deployments whose newest spec is what answers, all pods of it."""
    items = api.get(f"/apis/{API_VERSION}/wenxindeployments", timeout=60).raise_for_status().json()["items"]
    conditions = (one for item in items for one in (item.get("status") or {}).get("conditions") or ())
    return sum(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _count(api: httpx.Client, path: str) -> int:
    page = api.get(path, params={"limit": "1"}).raise_for_status().json()
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)


def _seen(operator: Operator) -> float:
    """Resources that had a pass at least, as far as numbers of passes tell."""
    return operator.total("wenxin_operator_reconcile_total")


def _passes(operator: Operator) -> dict[str, Any]:
    """Number, and bounds that half and 99 % of the passes stay under, from the operator's own histogram."""
    found: dict[float, float] = {}
    for labels, value in operator.samples("wenxin_operator_reconcile_seconds_bucket"):
        (bound,) = map(float, _LE.findall(labels))
        found[bound] = found.get(bound, 0.0) + float(value)
    total = found[float("inf")]
    return {
        "passes": int(total),
        "pass_p50_under_ms": _bound(found, total / 2),
        "pass_p99_under_ms": _bound(found, total * 0.99),
    }


def _bound(cumulative: dict[float, float], rank: float) -> float:
    return 1e3 * min(bound for bound, count in cumulative.items() if count >= rank)


def _rest(operator: Operator, seconds: float) -> dict[str, Any]:
    """What it does while nothing changes: requests and writes a minute but for the lease's."""
    before, cpu = _requests(operator), operator.cpu_seconds
    writes = operator.writes()
    time.sleep(seconds)
    minutes = seconds / 60
    return {
        "requests_per_minute": round((_requests(operator) - before) / minutes, 1),
        "writes": int(operator.writes() - writes),
        "cpu_seconds_per_minute": round((operator.cpu_seconds - cpu) / minutes, 2),
        "resident_mib": _mib(operator.resident_bytes),
    }


def _requests(operator: Operator) -> float:
    samples: Iterable[tuple[str, str]] = operator.samples("wenxin_operator_api_requests_total")
    return sum(float(value) for labels, value in samples if LEASE not in labels)


def _mib(count: int) -> float:
    return round(count / 2**20, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator_scale", description=__doc__)
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few, to see that it works; nothing is written")
    options = parser.parse_args(arguments)
    recording = environment.Recording(rates=False)
    row = measure(6, 2, rest_seconds=5) if options.quick else measure(options.deployments, options.replicas)
    print(json.dumps(row, indent=2))
    if options.quick:
        return
    plan = {"namespaces": NAMESPACES, "nodes": NODES, "resync_seconds": RESYNC_SECONDS}
    print(f"written to {environment.write_result('operator_scale', recording.facts(), [row], plan=plan)}")


if __name__ == "__main__":
    main()
