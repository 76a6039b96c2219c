"""The operator is killed before any one of its writes: the next copy ends where nothing had happened.

A pass holds nothing that the cluster does not hold too, so every story of a change is told once to its end, and then
once more for each write, with an end of the process right before it.
"""

import copy
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.wenxin_operator.fake_cluster import FakeCluster, claim
from tests.wenxin_operator.passes import INLINE, set_spec
from wenxin_operator.names import DEPLOYMENT, SERVICE, WENXIN_DEPLOYMENT, Raw

MOST_WRITES = 60


class Killed(BaseException):
    """No handler of ours may catch it."""


async def served() -> FakeCluster:
    """One deployment that serves with two replicas, at rest."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_DEPLOYMENT, "ernie", {**INLINE, "replicas": 2})
    await cluster.settle()
    cluster.finish_inspection("ernie")
    await cluster.settle()
    cluster.run_pods("ernie")
    await cluster.settle()
    return cluster


async def empty() -> FakeCluster:
    cluster = FakeCluster()
    claim(cluster)
    return cluster


def again(cluster: FakeCluster, number: int) -> FakeCluster:
    """Another one where all is as it is here; the hash of a manifest holds its owner's uid, and so the same numbers."""
    objects, applied = copy.deepcopy((cluster.objects, cluster._applied))
    return FakeCluster(now=cluster.now, objects=objects, _applied=applied, _numbers=itertools.count(number))


def create(cluster: FakeCluster) -> None:
    cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)


def other_flags(cluster: FakeCluster) -> None:
    set_spec(cluster, maxModelLen=64)


def fewer(cluster: FakeCluster) -> None:
    cluster.says = {"ernie-0": {"waiting": 0, "running": 1}}
    set_spec(cluster, replicas=1)


def groups(cluster: FakeCluster) -> None:
    set_spec(cluster, parallelism={"tensor": 2, "nodes": 2})


def a_cache(cluster: FakeCluster) -> None:
    set_spec(cluster, answerCache={"redis": {"managed": {}}})


def an_autoscaler(cluster: FakeCluster) -> None:
    set_spec(cluster, autoscaling={"maxReplicas": 4})


def drift(cluster: FakeCluster) -> None:
    cluster.remove(SERVICE, "ernie")
    cluster.edit(DEPLOYMENT, "ernie", lambda thing: thing["spec"].update(replicas=7))


def a_bad_spec(cluster: FakeCluster) -> None:
    set_spec(cluster, maxModelLen=10**6)


STORIES: dict[str, tuple[Callable[[], Awaitable[FakeCluster]], Callable[[FakeCluster], None]]] = {
    "a first apply": (empty, create),
    "another flag": (served, other_flags),
    "fewer replicas": (served, fewer),
    "one pod becomes a group": (served, groups),
    "a cache": (served, a_cache),
    "an autoscaler": (served, an_autoscaler),
    "somebody's hands": (served, drift),
    "a spec that is refused": (served, a_bad_spec),
}


def seen(cluster: FakeCluster) -> dict[tuple[str, str], Raw]:
    """All objects without what counts writes: uids by the name of whose they are, no versions."""
    names = {thing["metadata"]["uid"]: "/".join(key) for key, thing in cluster.objects.items()}
    found = {}
    for key, thing in cluster.objects.items():
        bare = copy.deepcopy(thing)
        for counted in ("uid", "resourceVersion", "generation"):
            bare["metadata"].pop(counted)
        found[key] = json.loads(json.dumps(bare), object_hook=lambda part: _named(part, names))
    return found


def _named(part: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    part.pop("observedGeneration", None)
    return part | ({"uid": names.get(part["uid"], part["uid"])} if "uid" in part else {})


@pytest.mark.parametrize("story", STORIES)
async def test_killed_before_any_write_the_next_copy_ends_at_the_same_place(story: str) -> None:
    begin, change = STORIES[story]
    whole = await begin()
    change(whole)
    writes = await whole.settle()
    assert 0 < len(writes) < MOST_WRITES
    start = await begin()
    first = next(start._numbers)
    for number in range(len(writes)):
        cluster = again(start, first)
        change(cluster)
        left = iter(range(number))

        def kill(_verb: str, _thing: Raw, left: Any = left) -> None:
            if next(left, None) is None:
                raise Killed

        cluster.refuse = kill
        with pytest.raises(Killed):
            await cluster.settle()
        cluster.refuse = lambda _verb, _thing: None
        await cluster.settle()
        assert seen(cluster) == seen(whole), f"killed before {writes[number]}"
