"""A new version on GPUs, with the scheduler and the controller of Deployments of a real control plane."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.harness.control_plane import ControlPlane
from e2e.stories.operator_api.conftest import CONTROLLERS
from e2e.stories.operator_api.copies import Copy, World, prepare
from e2e.stories.operator_api.nodes import REVISION, Kubelets, add_node, bind_claim
from e2e.stories.operator_api.worlds import conditions, deployment, finish_inspection

NAME = "rolled"
MODEL = "serving.wenxin.io/model"
ON_GPUS: dict[str, Any] = {"accelerator": {"resource": "nvidia.com/gpu"}, "rollout": {"surgeTimeout": "2s"}}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A control plane with one node of three GPUs."""
    with ControlPlane(controllers=CONTROLLERS, scheduler=True) as plane:
        world = prepare(plane)
        add_node(world, "node1", gpus=3)
        bind_claim(world, "weights")
        yield world


@pytest.fixture(scope="module")
def copy(world: World) -> Iterator[Copy]:
    with world.operator() as copy:
        yield copy


@pytest.fixture(scope="module")
def kubelets(world: World, copy: Copy) -> Kubelets:
    """Two replicas with a GPU each, which answer."""
    world.apply(deployment(NAME, replicas=2, **ON_GPUS))
    copy.wait(lambda: any(MODEL in pod["metadata"]["labels"] for pod in world.list("pods")), "the inspect pod")
    finish_inspection(world, NAME)
    kubelets = Kubelets(world, NAME)
    assert "RolloutComplete" in " ".join(rolled(world, copy, kubelets, lambda: ready(world)))
    return kubelets


def ready(world: World) -> bool:
    """Whether the newest spec is what answers."""
    found, told = world.get("wd", NAME) or {}, conditions(world, NAME).get("Ready", {})
    return told.get("status") == "True" and told["observedGeneration"] == found["metadata"]["generation"]


def rolled(world: World, copy: Copy, kubelets: Kubelets, done: Callable[[], bool]) -> set[str]:
    """Let the kubelets work until it is done; returns all that Progressing said on the way."""
    told: set[str] = set()

    def over() -> bool:
        kubelets.turn()
        found = conditions(world, NAME).get("Progressing", {})
        told.add(f"{found.get('reason')}: {found.get('message')}")
        return done()

    copy.wait(over, "the rollout", seconds=60)
    return told


def revisions(kubelets: Kubelets) -> set[str]:
    return {pod["metadata"]["labels"][REVISION] for pod in kubelets.staying()}


def test_where_a_gpu_is_free_a_new_pod_comes_before_an_old_one_goes(
    world: World, copy: Copy, kubelets: Kubelets
) -> None:
    before = revisions(kubelets)
    kubelets.count()
    world.apply(deployment(NAME, replicas=2, engine={"maxNumSeqs": 5}, **ON_GPUS))
    told = rolled(world, copy, kubelets, lambda: ready(world))
    assert kubelets.count() == (2, 3)
    assert not revisions(kubelets) & before
    assert any("a new one comes before an old one goes, as long as there is room" in words for words in told), told
    assert not any("there was no room" in words for words in told)


def test_where_none_is_free_one_goes_and_one_comes_and_the_condition_says_why(
    world: World, copy: Copy, kubelets: Kubelets
) -> None:
    world.apply(deployment(NAME, replicas=3, engine={"maxNumSeqs": 5}, **ON_GPUS))
    rolled(world, copy, kubelets, lambda: ready(world))
    before = revisions(kubelets)
    kubelets.count()
    world.apply(deployment(NAME, replicas=3, engine={"maxNumSeqs": 6}, **ON_GPUS))
    told = rolled(world, copy, kubelets, lambda: ready(world))
    assert kubelets.count() == (2, 4), "one is out at most; the fourth has no node until then"
    assert not revisions(kubelets) & before
    why = "an old one goes before a new one comes, for there was no room for one more"
    assert any(why in words and "Insufficient nvidia.com/gpu" in words for words in told), told
    assert {words.split(":")[0] for words in told} <= {"RollingOut", "RolloutComplete"}, "nothing of it is trouble"


def test_a_version_that_needs_more_than_the_nodes_have_leaves_all_old_ones_serving(
    world: World, copy: Copy, kubelets: Kubelets
) -> None:
    before = revisions(kubelets)
    kubelets.count()
    spec: dict[str, Any] = {"engine": {"maxNumSeqs": 6}, "pod": {"resources": {"requests": {"cpu": "900"}}}}
    world.apply(deployment(NAME, replicas=3, **spec, **ON_GPUS))
    told = rolled(world, copy, kubelets, lambda: conditions(world, NAME)["Progressing"]["reason"] == "Unschedulable")
    assert any("no old one goes for a new one" in words for words in told), told
    assert kubelets.count()[0] == 3
    world.apply(deployment(NAME, replicas=3, engine={"maxNumSeqs": 6}, **ON_GPUS))
    rolled(world, copy, kubelets, lambda: ready(world))
    assert revisions(kubelets) == before
    assert kubelets.count()[0] == 3


def test_a_version_that_never_becomes_ready_leaves_the_old_one_serving(
    world: World, copy: Copy, kubelets: Kubelets
) -> None:
    (before,) = revisions(kubelets)
    world.apply(deployment(NAME, replicas=2, engine={"maxNumSeqs": 6}, **ON_GPUS))
    rolled(world, copy, kubelets, lambda: ready(world))
    kubelets.count()
    world.apply(deployment(NAME, replicas=2, engine={"maxNumSeqs": 7}, **ON_GPUS))
    copy.wait(lambda: len(revisions(kubelets)) == 2, "a pod of the new version")
    (new,) = revisions(kubelets) - {before}
    kubelets.broken.add(new)
    for _ in range(8):
        kubelets.turn()
    assert kubelets.count() == (2, 3)
    assert conditions(world, NAME)["Available"]["status"] == "True"
    world.apply(deployment(NAME, replicas=2, engine={"maxNumSeqs": 6}, **ON_GPUS))
    rolled(world, copy, kubelets, lambda: ready(world))
    assert revisions(kubelets) == {before}
    assert not copy.refused(), "the chart's rights are enough"
