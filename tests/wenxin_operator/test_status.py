"""Conditions in the less common hours: what is in the way is named, once, and in the right place."""

from typing import Any

import pytest

from tests.contract.inspected import EXPERTS, INSPECTED
from tests.wenxin_operator.fake_cluster import FakeCluster, claim
from wenxin_operator.errors import Conflict, Forbidden
from wenxin_operator.names import DEPLOYMENT, NETWORK_POLICY, WENXIN_DEPLOYMENT, WENXIN_MODEL, Raw

SPEC = {"model": {"ref": "shared"}, "accelerator": {"resource": "none"}, "replicas": 3}
PULL = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}


@pytest.fixture
async def cluster() -> FakeCluster:
    """Three replicas on a shared model, wanted but not there yet."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
    cluster.create(WENXIN_DEPLOYMENT, "ernie", SPEC)
    await cluster.settle()
    cluster.finish_inspection("shared")
    await cluster.settle()
    return cluster


def condition(cluster: FakeCluster, kind: str) -> Raw:
    return cluster.condition(WENXIN_DEPLOYMENT, "ernie", kind)


def complain(cluster: FakeCluster, **fields: Any) -> None:
    """The Deployment's controller reports something."""
    cluster.edit(DEPLOYMENT, "ernie", lambda thing: thing.update(status={"conditions": [fields]}))


async def test_a_problem_of_several_pods_says_of_how_many(cluster: FakeCluster) -> None:
    container = {"name": "runtime", "image": "wenxin:1", "ready": False, "state": PULL}
    cluster.run_pods("ernie", ready=1, status={"phase": "Pending", "containerStatuses": [container]})
    await cluster.settle()
    message = condition(cluster, "Ready")["message"]
    assert message.startswith("2 of 3 pods: image wenxin:1 cannot be pulled: not found; check the image's name")
    assert condition(cluster, "Available")["status"] == "True"
    assert condition(cluster, "Progressing")["reason"] == "ImagePullBackOff"


async def test_pods_that_may_not_be_made_are_told_without_their_passing_names(cluster: FakeCluster) -> None:
    words = 'pods "ernie-5d4f-x7k2p" is forbidden: exceeded quota: team'
    complain(cluster, type="ReplicaFailure", status="True", reason="FailedCreate", message=words)
    await cluster.settle()
    first = condition(cluster, "Progressing")
    assert first["message"].startswith("pods is forbidden: exceeded quota: team; see the namespace's quotas")
    again = words.replace("x7k2p", "b9m3q")
    complain(cluster, type="ReplicaFailure", status="True", reason="FailedCreate", message=again)
    assert await cluster.settle() == []


async def test_a_load_that_takes_too_long_is_told(cluster: FakeCluster) -> None:
    complain(cluster, type="Progressing", status="False", reason="ProgressDeadlineExceeded", message="timed out")
    await cluster.settle()
    assert condition(cluster, "Ready")["reason"] == "ProgressDeadlineExceeded"


async def test_a_deployment_that_has_nothing_to_complain_of_changes_nothing(cluster: FakeCluster) -> None:
    complain(cluster, type="Progressing", status="True", reason="ReplicaSetUpdated", message="progressing")
    assert await cluster.settle() == []


async def test_a_failing_shared_model_is_named(cluster: FakeCluster) -> None:
    cluster.edit(WENXIN_MODEL, "shared", lambda thing: thing["spec"].update(source="pvc://nowhere/x"))
    await cluster.settle()
    assert condition(cluster, "ModelReady")["message"].startswith(
        "WenxinModel shared: spec.source: this namespace has no"
    )


async def test_a_model_that_the_operator_may_not_inspect_says_so() -> None:
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
    denied = Forbidden("jobs is forbidden", status=403, reason="Forbidden")
    cluster.refuse = lambda verb, thing: denied if (verb, thing["kind"]) == ("apply", NETWORK_POLICY) else None
    assert (await cluster.run(WENXIN_MODEL, "shared")).error is denied
    ready = cluster.condition(WENXIN_MODEL, "shared", "Ready")
    assert ready["reason"] == "Forbidden"
    assert "chart" in ready["message"]


async def test_a_verified_model_stays_ready_when_its_policy_can_not_be_repaired(cluster: FakeCluster) -> None:
    cluster.remove(NETWORK_POLICY, "shared-inspect")
    cluster.refuse = lambda verb, _thing: Conflict("busy", status=409) if verb == "apply" else None
    assert (await cluster.run(WENXIN_MODEL, "shared")).error is not None
    assert cluster.condition(WENXIN_MODEL, "shared", "Ready")["status"] == "True"


async def test_more_pods_than_wanted_is_not_ready_yet(cluster: FakeCluster) -> None:
    cluster.run_pods("ernie")
    cluster.add_pod("ernie", "ernie-extra")
    cluster.publish("ernie")
    await cluster.settle()
    assert condition(cluster, "Ready")["status"] == "False"
    assert cluster.objects[WENXIN_DEPLOYMENT, "ernie"]["status"]["replicas"] == 4


async def test_becoming_ready_is_an_event_once(cluster: FakeCluster) -> None:
    cluster.events.clear()
    cluster.run_pods("ernie")
    await cluster.settle()
    cluster.sleep(600)
    await cluster.settle()
    (event,) = cluster.events
    assert (event.type, event.reason, event.note) == ("Normal", "Answering", "Ready is True: 3 of 3 pods answer")


async def test_the_status_describes_the_weights_that_are_served(cluster: FakeCluster) -> None:
    assert cluster.objects[WENXIN_DEPLOYMENT, "ernie"]["status"]["model"] == {
        "name": "shared",
        "digest": INSPECTED["digest"],
        "architecture": "Ernie4_5ForCausalLM",
        "parameters": 361_000_000,
        "contextLength": 131_072,
    }


async def test_the_status_tells_how_much_of_a_mixture_of_experts_is_active() -> None:
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_DEPLOYMENT, "ernie", {"model": {"source": "pvc://weights/ernie"}})
    await cluster.settle()
    cluster.finish_inspection("ernie", INSPECTED | EXPERTS)
    await cluster.settle()
    assert cluster.objects[WENXIN_DEPLOYMENT, "ernie"]["status"]["model"]["activeParameters"] == 3_350_000_000
    facts = cluster.objects[WENXIN_MODEL, "ernie"]["status"]["facts"]
    assert (facts["experts"], facts["expertsPerToken"]) == (64, 6)


async def test_every_message_fits_its_field() -> None:
    cluster = FakeCluster()
    cluster.create(WENXIN_DEPLOYMENT, "ernie", {**SPEC, "pod": {"unknown": {}}, **{f"x{n}": n for n in range(500)}})
    await cluster.settle()
    assert len(condition(cluster, "Accepted")["message"]) <= 4096
    assert all(len(event.note) <= 1024 for event in cluster.events)
