from pathlib import Path
from typing import Any

from e2e.harness import storage

FOLDER = Path("/volumes")


def claim(**changes: Any) -> dict[str, Any]:
    notes = {
        "volume.kubernetes.io/storage-provisioner": storage.PROVISIONER,
        "volume.kubernetes.io/selected-node": "node2",
    } | changes.pop("annotations", {})
    meta = {"name": "data", "namespace": "team", "uid": "1-2", "annotations": notes} | changes.pop("metadata", {})
    spec = {
        "storageClassName": "standard",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    } | changes
    return {"metadata": meta, "spec": spec}


def volume(**changes: Any) -> dict[str, Any]:
    (made,) = storage.wanted([claim()], set(), FOLDER)
    return {**made, "status": {"phase": "Released"}} | changes


def test_a_claim_with_a_node_gets_a_folder_on_that_node() -> None:
    (made,) = storage.wanted([claim()], set(), FOLDER)
    assert made["metadata"]["name"] == "pvc-1-2"
    assert made["spec"]["local"] == {"path": "/volumes/node2/pvc-1-2"}
    assert made["spec"]["capacity"] == {"storage": "1Gi"}
    assert made["spec"]["claimRef"]["uid"] == "1-2"
    terms = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["values"] == ["node2"]


def test_a_claim_that_many_may_write_to_is_on_every_node() -> None:
    (made,) = storage.wanted([claim(accessModes=["ReadWriteMany"])], set(), FOLDER)
    assert made["spec"]["local"] == {"path": "/volumes/every-node/pvc-1-2"}
    assert made["spec"]["accessModes"] == ["ReadWriteMany"]
    terms = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "Exists"}]


def test_claims_that_wait_for_another_are_left_alone() -> None:
    others = claim(annotations={"volume.kubernetes.io/storage-provisioner": "someone.else"})
    unscheduled = claim()
    del unscheduled["metadata"]["annotations"]["volume.kubernetes.io/selected-node"]
    bound = claim(volumeName="pv")
    leaving = claim(metadata={"deletionTimestamp": "now", **claim()["metadata"]})
    bare = {"metadata": {"name": "bare"}, "spec": {}}
    assert storage.wanted([others, unscheduled, bound, leaving, bare], set(), FOLDER) == []


def test_a_claim_is_served_once() -> None:
    assert storage.wanted([claim()], {"pvc-1-2"}, FOLDER) == []


def test_released_volumes_of_ours_are_reclaimed_and_no_others() -> None:
    ours = volume()
    assert storage.released([ours]) == [ours]
    assert storage.released([volume(status={"phase": "Bound"})]) == []
    foreign = volume(metadata={"name": "pv"})
    retained = volume()
    retained["spec"] = {**retained["spec"], "persistentVolumeReclaimPolicy": "Retain"}
    assert storage.released([foreign, retained]) == []
