"""Downloads on a real API server: its defaults, its rules for claims, and just the rights that the chart grants."""

import time

from e2e.stories.operator_api.copies import Copy, Object, World
from e2e.stories.operator_api.worlds import conditions, finish_inspection

KINDS = ("wm", "pvc", "jobs", "networkpolicies", "configmaps", "events")


def model(name: str, **spec: object) -> Object:
    """A preset that is downloaded."""
    return {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"preset": "ernie-4.5-0.3b", **spec},
    }


def ready(world: World, name: str) -> Object:
    """Its condition Ready; empty while there is none."""
    found: Object = conditions(world, name, kind="wm").get("Ready", {})
    return found


def versions(world: World) -> dict[str, dict[str, str]]:
    """What there is of each kind, and in which version."""
    found = {kind: world.list(kind) for kind in KINDS}
    return {
        kind: {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in things}
        for kind, things in found.items()
    }


def rested(copy: Copy, seconds: float = 3.0) -> bool:
    """Whether nothing is written for so long."""
    before = copy.total("wenxin_operator_writes_total", without="leases")
    time.sleep(seconds)
    return copy.total("wenxin_operator_writes_total", without="leases") == before


def test_a_preset_gets_a_claim_and_a_job_and_then_there_is_rest(world: World) -> None:
    given = model("resting", checksums={"config.json": "0" * 64}, storage={"accessModes": ["ReadWriteMany"]})
    with world.operator() as copy:
        world.apply(given)
        copy.wait(lambda: world.list("pods"), "the download's pod")
        claim = world.get("pvc", "resting-weights")
        assert claim
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert claim["spec"]["resources"]["requests"] == {"storage": "3Gi"}
        finish_inspection(world, "resting")
        copy.wait(lambda: ready(world, "resting").get("status") == "True", "the model")
        copy.wait(lambda: rested(copy), "rest")
        before = versions(world)
        world.plane.kubectl("label", "wm", "resting", "touched=yes")
        copy.wait(lambda: rested(copy), "rest")
        before["wm"] = versions(world)["wm"]
        assert versions(world) == before
        assert not copy.refused(), "the chart's rights are enough"
        shown = world.plane.kubectl("get", "wm", "resting", "--no-headers").split()
        assert shown[:4] == ["resting", "True", "Verified", "100"]


def test_what_the_api_server_will_not_change_of_a_claim_is_told_in_its_words(world: World) -> None:
    with world.operator() as copy:
        world.apply(model("growing"))
        copy.wait(lambda: ready(world, "growing").get("reason") == "Downloading", "the download")
        world.apply(model("growing", storage={"size": "50Gi"}))
        copy.wait(lambda: "growing-weights" in ready(world, "growing").get("message", ""), "the refusal")
        world.apply(model("growing", storage={"size": "1Gi", "storageClassName": "other"}))
        copy.wait(lambda: ready(world, "growing").get("reason") == "Downloading", "what changes nothing to be taken")


def test_a_model_takes_its_claim_along_but_not_one_that_was_there(world: World) -> None:
    mine = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "mine", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    with world.operator() as copy:
        world.apply(mine, model("own"), model("other", storage={"existingClaim": "mine"}))
        copy.wait(lambda: len(world.list("jobs")) >= 2, "both downloads")
        world.plane.kubectl("delete", "wm", "own", "other", "--timeout=30s")
        # No controller of this control plane takes the protection off a claim that no pod uses.
        copy.wait(lambda: _leaving(world, "own-weights"), "the garbage collector")
        assert not _leaving(world, "mine")


def _leaving(world: World, claim: str) -> bool:
    found = world.get("pvc", claim)
    return found is None or "deletionTimestamp" in found["metadata"]
