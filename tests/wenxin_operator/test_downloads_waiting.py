"""A Job's pod that is placed and does not start says so, and who may be in its way."""

import pytest

from tests.wenxin_operator import downloads
from tests.wenxin_operator.downloads import HALF, SMALL, asked_for, serving
from tests.wenxin_operator.fake_cluster import FakeCluster
from tests.wenxin_operator.passes import set_spec
from wenxin_operator.names import PERSISTENT_VOLUME_CLAIM, POD, WENXIN_MODEL, Raw


def ready(cluster: FakeCluster) -> Raw:
    return cluster.condition(WENXIN_MODEL, "ernie", "Ready")


async def waiting_beside_a_replica(node: str, mode: str) -> Raw:
    """What is said of a second download whose pod waits on `node`, while a replica on node-1 serves the first."""
    cluster = await serving()
    claims = {"accessModes": [mode]}
    cluster.edit(PERSISTENT_VOLUME_CLAIM, "ernie-weights", lambda thing: thing["spec"].update(claims))
    placed(cluster, "ernie-0", "node-1")
    set_spec(cluster, model={**SMALL, "revision": "next"})
    await cluster.settle()
    placed(cluster, downloads.start(cluster, "ernie", phase="Pending", containerStatuses=[]), node)
    await cluster.settle()
    return ready(cluster)


def placed(cluster: FakeCluster, pod: str, node: str) -> str:
    """The scheduler has found a node for it."""
    cluster.edit(POD, pod, lambda thing: thing.update(spec={"nodeName": node}))
    return pod


async def test_a_pod_that_is_placed_and_does_not_start_is_named_with_its_node() -> None:
    cluster = await asked_for(SMALL)
    pod = placed(cluster, downloads.start(cluster, "ernie", phase="Pending", containerStatuses=[]), "node-1")
    await cluster.settle()
    told = ready(cluster)
    assert told["reason"] == "WaitingForPod"
    assert told["message"] == (
        f"pod {pod} has yet to start on node node-1; `kubectl describe pod {pod}` says what it waits for"
    )
    assert cluster.events == [], "most start within seconds"
    downloads.start(cluster, "ernie", HALF)
    await cluster.settle()
    assert ready(cluster)["reason"] == "Downloading"


@pytest.mark.parametrize(("node", "mode"), [("node-1", "ReadWriteOnce"), ("node-2", "ReadWriteMany")])
async def test_where_the_claim_can_be_mounted_nobody_is_in_the_way(node: str, mode: str) -> None:
    told = await waiting_beside_a_replica(node, mode)
    assert told["reason"] == "WaitingForPod"
    assert "one node at a time" not in told["message"]


async def test_pods_that_hold_the_claim_on_another_node_are_told_with_what_to_do() -> None:
    told = await waiting_beside_a_replica("node-2", "ReadWriteOnce")
    assert told["reason"] == "WaitingForPod"
    assert "has yet to start on node node-2;" in told["message"]
    assert "one node at a time, and pods that serve it run on node-1: " in told["message"]
    assert "scale these to 0 until the Job is done" in told["message"]
