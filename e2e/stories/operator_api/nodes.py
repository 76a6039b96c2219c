"""Nodes without a kubelet: the scheduler counts their GPUs, and `Kubelets` says of pods what theirs would."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from e2e.stories.operator_api.copies import World

Object = dict[str, Any]
LABEL = "serving.wenxin.io/deployment"
REVISION = "serving.wenxin.io/revision"
GPU = "nvidia.com/gpu"


def add_node(world: World, name: str, gpus: int) -> None:
    """A node that takes any pod as long as it has GPUs."""
    world.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    room = {"cpu": "64", "memory": "1Ti", "pods": "110", "ephemeral-storage": "1Ti", GPU: str(gpus)}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "pretended"}
    _patch_status(world, "node", name, {"capacity": room, "allocatable": room, "conditions": [ready]})
    # A node is born with the taint that it is not ready, which its life cycle's controller would take away.
    world.plane.kubectl("patch", "node", name, "--type=merge", "-p", json.dumps({"spec": {"taints": []}}))


def bind_claim(world: World, name: str, namespace: str = "default") -> None:
    """A volume for a claim, as the controller of volumes would bind it."""
    claim = {"name": name, "namespace": namespace}
    capacity = {"storage": "1Gi"}
    spec: Object = {
        "capacity": capacity,
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/nowhere"},
        "claimRef": claim,
        "storageClassName": "",
    }
    world.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    bound = {"pv.kubernetes.io/bind-completed": "yes"}
    world.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": claim | {"annotations": bound},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": capacity},
                "volumeName": name,
                "storageClassName": "",
            },
        }
    )
    status = {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": capacity}
    _patch_status(world, "pvc", name, status)


@dataclass
class Kubelets:
    """What the nodes' kubelets would say of the pods of one deployment.

    Attributes:
        broken: Revisions whose pods run and never become ready.
        least: The fewest ready pods that there were since the last `count`.
        most: The most pods that there were, those that drain not counted.
        addresses: The pods', in the order in which they start.
    """

    world: World
    deployment: str
    broken: set[str] = field(default_factory=set)
    least: int = 1000
    most: int = 0
    addresses: Iterator[str] = field(default_factory=lambda: (f"10.0.0.{number}" for number in count(1)))

    def pods(self) -> list[Object]:
        """Pods of the deployment."""
        every = self.world.list("pods")
        return [pod for pod in every if pod["metadata"]["labels"].get(LABEL) == self.deployment]

    def staying(self) -> list[Object]:
        """Those that are not on their way out."""
        return [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]

    def turn(self) -> None:
        """One round: what has a node and is not ready becomes so, what is to go goes."""
        staying = self.staying()
        self.least, self.most = min(self.least, sum(map(is_ready, staying))), max(self.most, len(staying))
        for pod in self.pods():
            name, metadata = pod["metadata"]["name"], pod["metadata"]
            if "deletionTimestamp" in metadata:
                self.world.plane.kubectl(
                    "delete", "pod", name, "--grace-period=0", "--force", "--ignore-not-found", "--wait=false"
                )
            elif pod["spec"].get("nodeName") and not is_ready(pod) and metadata["labels"][REVISION] not in self.broken:
                self._run(pod)

    def count(self) -> tuple[int, int]:
        """The fewest ready and the most pods since this was asked last."""
        seen, self.least, self.most = (self.least, self.most), 1000, 0
        return seen

    def _run(self, pod: Object) -> None:
        conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "ContainersReady", "Ready")]
        address = next(self.addresses)
        status = {"phase": "Running", "conditions": conditions, "podIP": address, "podIPs": [{"ip": address}]}
        _patch_status(self.world, "pod", pod["metadata"]["name"], status)


def is_ready(pod: Object) -> bool:
    """Whether its condition Ready is True."""
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _patch_status(world: World, kind: str, name: str, status: Object) -> None:
    patch = json.dumps({"status": status})
    world.plane.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)
