"""Replicas of several pods on a real API server, with the controller of StatefulSets and without nodes."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.harness.control_plane import ControlPlane
from e2e.stories.operator_api.copies import Copy, World, prepare
from e2e.stories.operator_api.worlds import claim, conditions, deployment, finish_inspection
from tests.wenxin_operator.leader_worker_sets import SPEC

CONTROLLERS = (
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "serviceaccount-controller",
    "statefulset-controller",
)
TWO_NODES: dict[str, Any] = {"parallelism": {"tensor": 2, "nodes": 2}}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A control plane whose pods never run, for there is no node."""
    with ControlPlane(controllers=CONTROLLERS) as plane:
        yield prepare(plane)


def sets(world: World, name: str) -> list[dict[str, Any]]:
    """The StatefulSets of a deployment."""
    label = "serving.wenxin.io/deployment"
    return [each for each in world.list("statefulsets") if each["metadata"]["labels"][label] == name]


def served(world: World, copy: Copy, name: str, **spec: Any) -> None:
    """A deployment whose weights are verified."""
    world.apply(claim(), deployment(name, **spec))
    copy.wait(lambda: _inspecting(world, name), "the inspect pod")
    finish_inspection(world, name)


def _inspecting(world: World, name: str) -> bool:
    label = "serving.wenxin.io/model"
    return any(each["metadata"]["labels"].get(label) == name for each in world.list("pods"))


def rested(copy: Copy, seconds: float = 5) -> bool:
    """Whether nothing was written for some seconds."""
    before = copy.total("wenxin_operator_writes_total", without="leases")
    time.sleep(seconds)
    return copy.total("wenxin_operator_writes_total", without="leases") == before


def test_a_group_is_a_stateful_set_whose_pods_know_their_place(world: World) -> None:
    with world.operator() as copy:
        served(world, copy, "wide", replicas=2, **TWO_NODES)
        copy.wait(lambda: sum(each.get("status", {}).get("replicas", 0) for each in sets(world, "wide")) == 4, "pods")
        copy.wait(lambda: rested(copy), "rest", seconds=60)
        assert not copy.refused(), "the chart's rights are enough"
    first, _ = sets(world, "wide")
    name, service = first["metadata"]["name"], first["spec"]["serviceName"]
    leader, worker = (world.get("pod", f"{name}-{number}") or {} for number in range(2))
    assert [each["metadata"]["labels"]["apps.kubernetes.io/pod-index"] for each in (leader, worker)] == ["0", "1"]
    assert (leader["spec"]["hostname"], leader["spec"]["subdomain"]) == (f"{name}-0", service)
    assert (world.get("service", service) or {})["spec"]["clusterIP"] == "None"
    assert (world.get("service", "wide") or {})["spec"]["selector"]["apps.kubernetes.io/pod-index"] == "0"
    assert (world.get("wd", "wide") or {})["status"]["replicas"] == 2


def test_a_rollout_on_a_cpu_adds_a_group_and_waits_for_it(world: World) -> None:
    with world.operator() as copy:
        served(world, copy, "rolled", **TWO_NODES)
        copy.wait(lambda: sets(world, "rolled"), "the group")
        (old,) = sets(world, "rolled")
        world.apply(deployment("rolled", maxModelLen=4096, **TWO_NODES))
        copy.wait(lambda: len(sets(world, "rolled")) == 2, "the new group")
        copy.wait(lambda: rested(copy), "rest", seconds=60)
        assert old["metadata"]["uid"] in {each["metadata"]["uid"] for each in sets(world, "rolled")}
        world.plane.kubectl("delete", "wd", "rolled", "--timeout=30s")
        copy.wait(lambda: not sets(world, "rolled"), "the garbage collector")


def test_a_leader_worker_set_is_taken_and_left_alone_where_there_are_some(world: World) -> None:
    definition(world)
    with world.operator() as copy:
        served(world, copy, "lws", replicas=2, **TWO_NODES)
        copy.wait(lambda: world.list("leaderworkersets"), "the LeaderWorkerSet")
        copy.wait(lambda: rested(copy), "rest", seconds=60)
        assert not copy.refused(), "the chart's rights are enough"
        assert conditions(world, "lws")["Accepted"]["status"] == "True"
        assert sets(world, "lws") == []
        (made,) = world.list("leaderworkersets")
        world.plane.kubectl("delete", "leaderworkerset", made["metadata"]["name"])
        copy.wait(lambda: world.list("leaderworkersets"), "it to come back")


def definition(world: World) -> None:
    """The published definition, as far as we use it."""
    group, plural = "leaderworkerset.x-k8s.io", "leaderworkersets"
    schema = {"type": "object", "properties": {"spec": _structural(SPEC)}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "LeaderWorkerSet", "plural": plural, "singular": "leaderworkerset"}
    world.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": f"{plural}.{group}",
                # The group is Kubernetes' own; the API server asks who approved of it.
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
        }
    )
    world.plane.kubectl("wait", "--for=condition=Established", "crd", f"{plural}.{group}", "--timeout=30s")


def _structural(schema: dict[str, Any]) -> dict[str, Any]:
    """Strictness is the apply's: it validates fields strictly."""
    kept = {key: value for key, value in schema.items() if key != "additionalProperties"}
    return kept | {
        key: {name: _structural(each) for name, each in value.items()}
        for key, value in kept.items()
        if key == "properties"
    }
