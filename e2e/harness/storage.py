"""A provisioner for the default StorageClass: one folder for each claim, made by a process outside the cluster.

    python -m e2e.harness.storage KUBECONFIG FOLDER

The same contract as any external provisioner's: the scheduler picks a node and says so on the claim, we make a volume
there, the controller manager binds the two. All nodes are one machine, so a ReadWriteMany claim gets a folder that each
of them has. A pass looks at all claims and volumes, so nothing is lost by a restart.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from e2e.harness.api_client import connect
from e2e.harness.paths import REPOSITORY

PROVISIONER = "e2e.wenxin.io/folder"
CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": PROVISIONER,
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "WaitForFirstConsumer",
}
PASS_SECONDS = 0.5
_CLAIM_NODE = "volume.kubernetes.io/selected-node"
_CLAIM_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
_HOST_NAME = "kubernetes.io/hostname"
_MADE_BY = "pv.kubernetes.io/provisioned-by"


def command(kubeconfig: Path, volumes: Path) -> list[str]:
    """How to start it from anywhere."""
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from e2e.harness import storage; storage.main()"
    return [sys.executable, "-c", code, str(kubeconfig), str(volumes)]


def main() -> None:
    """Provision and reclaim for as long as the cluster lives."""
    kubeconfig, folder = map(Path, sys.argv[1:])
    with connect(kubeconfig) as client:
        while True:
            try:
                run_pass(client, folder)
            except (httpx.HTTPError, OSError) as error:  # the next pass tries again
                print(error, flush=True)
            time.sleep(PASS_SECONDS)


def run_pass(client: httpx.Client, folder: Path) -> None:
    """Make the volumes that are wanted, remove those that are released."""
    claims = _list(client, "/api/v1/persistentvolumeclaims")
    volumes = _list(client, "/api/v1/persistentvolumes")
    for volume in wanted(claims, {volume["metadata"]["name"] for volume in volumes}, folder):
        _make(client, volume)
    for volume in released(volumes):
        _reclaim(client, volume)


def wanted(claims: list[dict[str, Any]], existing: set[str], folder: Path) -> list[dict[str, Any]]:
    """Volumes for the claims that are ours, have a node, and have no volume yet."""
    volumes = [_volume(claim, folder) for claim in claims if _awaits_us(claim)]
    return [volume for volume in volumes if volume["metadata"]["name"] not in existing]


def released(volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our volumes whose claim is gone and whose content may go too."""
    return [
        volume
        for volume in volumes
        if volume["metadata"].get("annotations", {}).get(_MADE_BY) == PROVISIONER
        and volume.get("status", {}).get("phase") == "Released"
        and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        and "deletionTimestamp" not in volume["metadata"]
    ]


def _awaits_us(claim: dict[str, Any]) -> bool:
    notes = claim["metadata"].get("annotations", {})
    ours = notes.get(_CLAIM_PROVISIONER) == PROVISIONER and _CLAIM_NODE in notes
    return ours and not claim["spec"].get("volumeName") and "deletionTimestamp" not in claim["metadata"]


def _volume(claim: dict[str, Any], folder: Path) -> dict[str, Any]:
    meta, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{meta['uid']}"
    place, on_node = _place(spec["accessModes"], meta["annotations"][_CLAIM_NODE])
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_MADE_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "local": {"path": str(folder / place / name)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }


def _place(modes: list[str], node: str) -> tuple[str, dict[str, Any]]:
    """The folder of a volume, and the nodes it is on: all of them if many may write, for they share one disk."""
    if "ReadWriteMany" in modes:
        return "every-node", {"key": _HOST_NAME, "operator": "Exists"}
    return node, {"key": _HOST_NAME, "operator": "In", "values": [node]}


def _make(client: httpx.Client, volume: dict[str, Any]) -> None:
    path = Path(volume["spec"]["local"]["path"])
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)  # any user of a pod may write; fsGroup is applied by the kubelet on top
    answer = client.post("/api/v1/persistentvolumes", json=volume)
    if answer.status_code != httpx.codes.CONFLICT:
        answer.raise_for_status()
    print(f"made {volume['metadata']['name']}", flush=True)


def _reclaim(client: httpx.Client, volume: dict[str, Any]) -> None:
    name = volume["metadata"]["name"]
    shutil.rmtree(volume["spec"]["local"]["path"], ignore_errors=True)
    answer = client.delete(f"/api/v1/persistentvolumes/{name}")
    if answer.status_code != httpx.codes.NOT_FOUND:
        answer.raise_for_status()
    print(f"reclaimed {name}", flush=True)


def _list(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(path).raise_for_status().json()["items"]
    return items
