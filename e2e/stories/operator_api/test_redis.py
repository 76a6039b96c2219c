"""A managed Redis that never becomes ready, for there is no node: what is mended reaches it all the same."""

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.harness.control_plane import ControlPlane
from e2e.stories.operator_api.conftest import CONTROLLERS
from e2e.stories.operator_api.copies import World, prepare
from e2e.stories.operator_api.worlds import deployment
from wenxin_operator import names

REDIS = names.redis("cached")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A control plane whose StatefulSets make pods."""
    with ControlPlane(controllers=(*CONTROLLERS, "statefulset-controller")) as plane:
        yield prepare(plane)


def cached(memory: str) -> dict[str, Any]:
    return deployment("cached", answerCache={"redis": {"managed": {"memory": memory}}})


def memory_of_the_pod(world: World) -> object:
    pod = world.get("pod", f"{REDIS}-0")
    return pod and pod["spec"]["containers"][0]["resources"]["limits"]["memory"]


def password(world: World) -> object:
    found = world.get("secret", REDIS)
    return found and found["data"]["password"]


def test_its_pod_follows_a_mended_template_and_its_secret_comes_back(world: World) -> None:
    with world.operator() as copy:
        world.apply(cached("64Gi"))
        copy.wait(lambda: memory_of_the_pod(world) == "64Gi", "a pod that no node can take")
        first = password(world)
        assert first
        world.plane.kubectl("delete", "secret", REDIS)
        world.apply(cached("64Mi"))
        copy.wait(lambda: memory_of_the_pod(world) == "64Mi", "a pod of the mended template")
        copy.wait(lambda: password(world) not in (None, first), "another Secret")
        assert not copy.refused()
