"""What the stories put into the API server, and what they do in place of a kubelet."""

import json
from typing import Any

from e2e.stories.operator_api.copies import World
from tests.contract.inspected import INSPECTED

Object = dict[str, Any]


def claim(namespace: str = "default") -> Object:
    """The claim with the weights."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "weights", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def deployment(name: str, namespace: str = "default", **spec: Any) -> Object:
    """A WenxinDeployment on a CPU."""
    return {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": f"pvc://weights/{name}"}, "accelerator": {"resource": "none"}, **spec},
    }


def conditions(world: World, name: str, namespace: str = "default", kind: str = "wd") -> dict[str, Object]:
    """A resource's conditions by type."""
    found = world.get(kind, name, namespace) or {}
    return {each["type"]: each for each in found.get("status", {}).get("conditions", [])}


def finish_inspection(world: World, name: str, namespace: str = "default") -> None:
    """Say what the inspect pod would, as its kubelet would; the Job controller does the rest."""
    (pod,) = [
        pod for pod in world.list("pods", namespace) if pod["metadata"]["labels"].get("serving.wenxin.io/model") == name
    ]
    now = pod["metadata"]["creationTimestamp"]
    ended = {
        "exitCode": 0,
        "reason": "Completed",
        "startedAt": now,
        "finishedAt": now,
        "message": json.dumps(INSPECTED),
    }
    container = {
        "name": "inspect",
        "image": "x",
        "imageID": "x",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    status = {"phase": "Succeeded", "startTime": now, "containerStatuses": [container]}
    arguments = ["patch", "pod", pod["metadata"]["name"], "-n", namespace, "--subresource=status", "--type=merge"]
    world.plane.kubectl(*arguments, "-p", json.dumps({"status": status}))
