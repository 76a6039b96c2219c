"""The operator at work on a real API server, with just the rights that the chart grants."""

import json
import os
import signal
import time

from e2e.stories.operator_api.copies import World
from e2e.stories.operator_api.worlds import claim, conditions, deployment, finish_inspection

CHILDREN = (
    "services",
    "deployments",
    "serviceaccounts",
    "networkpolicies",
    "configmaps",
    "controllerrevisions",
    "jobs",
    "wm",
)
LABEL = "serving.wenxin.io/deployment"


def test_a_resource_gets_its_children_neither_finalizer_nor_annotation_and_then_there_is_rest(world: World) -> None:
    with world.operator() as copy:
        world.apply(claim(), deployment("tiny"))
        copy.wait(lambda: "ModelReady" in conditions(world, "tiny"), "a status")
        copy.wait(lambda: world.list("pods"), "the inspect pod")
        finish_inspection(world, "tiny")
        copy.wait(lambda: world.get("deployment", "tiny"), "the Deployment")
        copy.wait(lambda: conditions(world, "tiny")["ModelReady"]["status"] == "True", "the model")
        for kind in CHILDREN:
            assert world.list(kind), kind
        made = world.get("wd", "tiny")
        assert made
        assert "finalizers" not in made["metadata"]
        assert set(made["metadata"]["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}

        copy.wait(lambda: _rested(copy.total, seconds=3), "rest")
        before = {kind: _versions(world, kind) for kind in (*CHILDREN, "wd", "events")}
        world.plane.kubectl("label", "pvc", "weights", f"touched=at-{time.time():.0f}")
        copy.wait(lambda: _rested(copy.total, seconds=5), "rest")
        assert {kind: _versions(world, kind) for kind in (*CHILDREN, "wd", "events")} == before
        assert not copy.refused(), "the chart's rights are enough"


def _rested(total: object, seconds: float) -> bool:
    assert callable(total)
    before = total("wenxin_operator_writes_total", without="leases")
    time.sleep(seconds)
    return bool(total("wenxin_operator_writes_total", without="leases") == before)


def _versions(world: World, kind: str) -> dict[str, str]:
    return {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in world.list(kind)}


def test_what_somebody_changes_or_deletes_is_put_right(world: World) -> None:
    with world.operator() as copy:
        world.apply(claim(), deployment("drift"))
        copy.wait(lambda: world.get("service", "drift"), "the Service")
        world.plane.kubectl("delete", "service", "drift")
        copy.wait(lambda: world.get("service", "drift"), "the Service to come back")
        selector = {"spec": {"selector": {LABEL: "other"}}}
        world.plane.kubectl("patch", "service", "drift", "--type=merge", "-p", json.dumps(selector))
        copy.wait(lambda: (world.get("service", "drift") or {})["spec"]["selector"][LABEL] == "drift", "its selector")


def test_deleting_a_resource_while_no_operator_runs_deletes_its_children(world: World) -> None:
    with world.operator() as copy:
        world.apply(claim(), deployment("gone"))
        copy.wait(lambda: world.get("service", "gone"), "the Service")
    world.plane.kubectl("delete", "wd", "gone", "--timeout=30s")
    with world.operator() as copy:
        copy.wait(lambda: not world.get("service", "gone"), "the garbage collector")
        copy.wait(lambda: not world.get("wm", "gone"), "the garbage collector")


def test_an_api_server_that_goes_away_and_comes_back_is_outlived(world: World) -> None:
    with world.operator(LEASE_DURATION="2m", LEASE_RENEW_DEADLINE="90s") as copy:
        copy.wait(copy.leads, "the lease")
        world.plane.stop_apiserver()
        time.sleep(3)
        world.plane.start_apiserver()
        world.apply(claim(), deployment("after"))
        copy.wait(lambda: world.get("service", "after"), "the Service", seconds=60)
        assert copy.answers("/healthz")


def test_a_frozen_operator_catches_up_with_what_it_missed(world: World) -> None:
    with world.operator(LEASE_DURATION="2m", LEASE_RENEW_DEADLINE="90s") as copy:
        world.apply(claim(), deployment("frozen"))
        copy.wait(lambda: world.get("service", "frozen"), "the Service")
        os.kill(copy.process.pid, signal.SIGSTOP)
        world.plane.kubectl("delete", "service", "frozen")
        time.sleep(2)
        os.kill(copy.process.pid, signal.SIGCONT)
        copy.wait(lambda: world.get("service", "frozen"), "the Service to come back")
