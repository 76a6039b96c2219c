"""The controllers of StatefulSets and LeaderWorkerSets, on command, for a cluster in memory."""

from collections.abc import Collection

from tests.wenxin_operator.fake_cluster import NAMESPACE, FakeCluster
from wenxin_operator.names import (
    LABEL_DEPLOYMENT,
    LABEL_GROUP_INDEX,
    LABEL_POD_INDEX,
    LABEL_WORKER_INDEX,
    LEADER_WORKER_SET,
    POD,
    STATEFUL_SET,
    Raw,
)


def run_groups(cluster: FakeCluster, name: str = "ernie", *, unready: Collection[str] = ()) -> None:
    """Each StatefulSet's pods are there and ready; those of `unready` groups are there only."""
    for group in groups(cluster):
        live = cluster.objects[STATEFUL_SET, group]
        for number in range(live["spec"]["replicas"]):
            labels = {LABEL_POD_INDEX: str(number)}
            put_pod(cluster, live, live["spec"]["template"], f"{group}-{number}", labels, ready=group not in unready)
    cluster.publish(name)


def run_leader_worker_set(cluster: FakeCluster, name: str = "ernie", *, ready: bool = True) -> None:
    """The pods of all groups are as its newest template says."""
    (lws,) = cluster.names(LEADER_WORKER_SET)
    live = cluster.objects[LEADER_WORKER_SET, lws]
    for pod in cluster.children(POD, NAMESPACE, LABEL_DEPLOYMENT, name):
        cluster.remove(POD, pod["metadata"]["name"])
    template = live["spec"]["leaderWorkerTemplate"]
    for group in range(live["spec"]["replicas"]):
        for number in range(template["size"]):
            pod = f"{lws}-{group}" + (f"-{number}" if number else "")
            # As its leaders are pods of one StatefulSet, their number in that is the group's.
            labels = {LABEL_POD_INDEX: str(number or group), LABEL_GROUP_INDEX: str(group)}
            labels[LABEL_WORKER_INDEX] = str(number)
            put_pod(cluster, live, template["workerTemplate"], pod, labels, ready=ready)
    cluster.publish(name)


def put_pod(cluster: FakeCluster, owner: Raw, template: Raw, name: str, labels: dict[str, str], *, ready: bool) -> None:
    """A pod of a template."""
    metadata = {
        "name": name,
        "labels": {**template["metadata"]["labels"], **labels},
        "annotations": template["metadata"]["annotations"],
        "ownerReferences": [{"uid": owner["metadata"]["uid"]}],
    }
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    cluster._store({"apiVersion": "v1", "kind": POD, "metadata": metadata, "status": status})


def groups(cluster: FakeCluster, revision: str = "") -> list[str]:
    """Names of the StatefulSets, of one revision or of all."""
    return [name for name in cluster.names(STATEFUL_SET) if revision in name]


def fail_pod(cluster: FakeCluster, name: str, status: Raw) -> None:
    """A pod is not ready, and says why."""
    told = {"conditions": [{"type": "Ready", "status": "False"}], **status}
    cluster.edit(POD, name, lambda pod: pod.update(status=told))
