"""What the Job controller, the kubelet and the download itself do, in stories of a pass."""

import json
from typing import Any

from tests.contract.inspected import INSPECTED
from tests.wenxin_operator.fake_cluster import FakeCluster
from wenxin_operator.names import (
    DEPLOYMENT,
    JOB,
    LABEL_JOB_NAME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Raw,
)

SMALL = {"preset": "ernie-4.5-0.3b"}
CPU = {"accelerator": {"resource": "none"}}
FETCHED = {**INSPECTED, "revision": "0123abcd"}
HALF = {
    "phase": "downloading",
    "done": 500_000_000,
    "total": 1_000_000_000,
    "files": 2,
    "files_total": 5,
    "bytes_per_second": 10_000_000,
}


def newest(cluster: FakeCluster, model: str) -> str:
    """The name of the newest download Job."""
    names = [name for name in cluster.names(JOB) if name.startswith(f"{model}-download-")]
    return max(names, key=lambda name: int(name.rpartition("-")[2]))


def start(cluster: FakeCluster, model: str, says: Any = None, **status: Any) -> str:
    """The pod of the newest Job runs; the name of the pod."""
    job = cluster.objects[JOB, newest(cluster, model)]
    pod = f"{job['metadata']['name']}-x"
    metadata = {
        "name": pod,
        "labels": {**job["spec"]["template"]["metadata"]["labels"], LABEL_JOB_NAME: job["metadata"]["name"]},
        "ownerReferences": [{"uid": job["metadata"]["uid"]}],
    }
    told = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "download", "ready": True}]}
    cluster._store({"apiVersion": "v1", "kind": POD, "metadata": metadata, "status": told | status})
    cluster.says[pod] = says
    return pod


def finish(cluster: FakeCluster, model: str, result: Raw | None = None, *, failed: Raw | None = None) -> None:
    """The pod of the newest Job ends, with its words; the Job follows."""
    ended = {"exitCode": 1 if failed else 0, "message": json.dumps(failed or result or FETCHED)}
    status = {"name": "download", "ready": False, "state": {"terminated": ended}}
    cluster.says.pop(
        start(cluster, model, phase="Failed" if failed else "Succeeded", containerStatuses=[status]),
    )
    at = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Failed" if failed else "Complete", "status": "True", "lastTransitionTime": at}
    cluster._store({**cluster.objects[JOB, newest(cluster, model)], "status": {"conditions": [condition]}})


async def asked_for(spec: Raw, name: str = "ernie", *, bound: bool = True) -> FakeCluster:
    """A WenxinModel whose first download Job is made."""
    cluster = FakeCluster()
    cluster.create(WENXIN_MODEL, name, spec)
    await cluster.settle()
    assert not bound or cluster.names(PERSISTENT_VOLUME_CLAIM)
    return cluster


def mounted(cluster: FakeCluster, name: str = "ernie") -> tuple[str, str]:
    """Claim and folder that the serving pods read."""
    pod = cluster.objects[DEPLOYMENT, name]["spec"]["template"]["spec"]
    return pod["volumes"][0]["persistentVolumeClaim"]["claimName"], pod["containers"][0]["args"][1]


async def serving() -> FakeCluster:
    """A deployment that serves an inline preset on a CPU, at rest."""
    cluster = FakeCluster()
    cluster.create(WENXIN_DEPLOYMENT, "ernie", {**CPU, "model": SMALL})
    await cluster.settle()
    finish(cluster, "ernie")
    await cluster.settle()
    cluster.run_pods("ernie")
    await cluster.settle()
    return cluster
