"""The stories of a pass that the API server does not let through, told on a cluster in memory."""

from tests.wenxin_operator.fake_cluster import FakeCluster, claim
from tests.wenxin_operator.passes import INLINE, refusing, set_spec, status_of
from wenxin_operator.errors import Conflict, Forbidden, NotFound
from wenxin_operator.names import (
    DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    WENXIN_DEPLOYMENT,
    Raw,
)


class TestTrouble:
    async def test_a_pod_that_can_not_be_scheduled_says_what_lacks(self, cluster: FakeCluster) -> None:
        set_spec(cluster, accelerator={"resource": "nvidia.com/gpu"})
        await cluster.settle()
        words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available"
        pending = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
        cluster.run_pods("ernie", ready=False, status={"phase": "Pending", "conditions": [pending]})
        await cluster.settle()
        ready = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")
        assert ready["reason"] == "Unschedulable"
        assert ready["message"] == (
            "0/2 nodes are available: 2 Insufficient nvidia.com/gpu; free or add nodes, or ask for less"
        )
        assert status_of(cluster)["gpus"] == 1

    async def test_a_name_that_is_taken_is_told_and_the_other_object_left_alone(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(SERVICE, "ernie", {"ports": [{"port": 80}]})
        cluster.hidden.add((SERVICE, "ernie"))
        cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)
        outcome = await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        assert outcome.error is not None
        progressing = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")
        assert progressing["reason"] == "NameTaken"
        assert progressing["message"].startswith("Service ernie: there is one already")
        assert cluster.objects[SERVICE, "ernie"]["spec"] == {"ports": [{"port": 80}]}

    async def test_a_child_that_the_watch_has_yet_to_tell_of_is_no_stranger(self, cluster: FakeCluster) -> None:
        cluster.hidden.add((SERVICE, "ernie"))
        outcome = await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        assert outcome.error is None

    async def test_a_missing_right_is_told_once_and_tried_again(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)
        error = Forbidden("networkpolicies is forbidden", status=403, reason="Forbidden")
        cluster.refuse = refusing(NETWORK_POLICY, error)
        for _ in range(3):
            cluster.writes.clear()
            assert (await cluster.run(WENXIN_DEPLOYMENT, "ernie")).error is error
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "Forbidden"
        assert [event.reason for event in cluster.events] == ["Forbidden"]
        assert cluster.writes == [], "the same words are written once"
        assert cluster.names(SERVICE) == [], "no endpoint without its policy"

    async def test_a_failed_deletion_is_told(self, cluster: FakeCluster) -> None:
        set_spec(cluster, replicas=2)
        await cluster.settle()
        cluster.refuse = refusing(POD_DISRUPTION_BUDGET, Forbidden("no", status=403), verb="delete")
        set_spec(cluster, replicas=1)
        assert (await cluster.run(WENXIN_DEPLOYMENT, "ernie")).error is not None
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "Forbidden"

    async def test_a_conflict_is_tried_again_in_silence(self, cluster: FakeCluster) -> None:
        cluster.edit(DEPLOYMENT, "ernie", lambda thing: thing["spec"].update(replicas=4))
        cluster.refuse = refusing(DEPLOYMENT, Conflict("changed", status=409))
        outcome = await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        assert isinstance(outcome.error, Conflict)
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "RolloutComplete"

    async def test_a_status_that_can_not_be_written_is_tried_again(self, cluster: FakeCluster) -> None:
        cluster.refuse = refusing(WENXIN_DEPLOYMENT, Conflict("another of that name", status=409), verb="status")
        cluster.events.clear()
        set_spec(cluster, parallelism={"tensor": 3})
        assert isinstance((await cluster.run(WENXIN_DEPLOYMENT, "ernie")).error, Conflict)
        assert cluster.events == []

    async def test_a_resource_that_vanishes_during_its_pass_is_no_error(self, cluster: FakeCluster) -> None:
        cluster.refuse = refusing(WENXIN_DEPLOYMENT, NotFound("gone", status=404), verb="status")
        set_spec(cluster, parallelism={"tensor": 3})
        assert (await cluster.run(WENXIN_DEPLOYMENT, "ernie")).error is None

    async def test_children_of_an_earlier_object_of_the_name_are_not_taken_over(self, cluster: FakeCluster) -> None:
        def disown(thing: Raw) -> None:
            thing["metadata"]["ownerReferences"][0]["uid"] = "an earlier one"

        cluster.edit(SERVICE, "ernie", disown)
        outcome = await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        assert outcome.error is not None
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "NameTaken"

    async def test_a_pod_lost_is_not_ready_and_back_is_ready(self, cluster: FakeCluster) -> None:
        cluster.remove(POD, "ernie-0")
        cluster.publish("ernie")
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Available")["status"] == "False"
        cluster.run_pods("ernie")
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["status"] == "True"

    async def test_the_time_of_a_transition_is_kept_until_the_next(self, cluster: FakeCluster) -> None:
        before = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["lastTransitionTime"]
        cluster.sleep(60)
        set_spec(cluster, parallelism={"tensor": 3})
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["lastTransitionTime"] == before
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["lastTransitionTime"] == "2026-01-01T00:01:00Z"
