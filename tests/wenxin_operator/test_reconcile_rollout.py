"""Shrinking and rolling out, told on a cluster in memory: who is asked, what is written first, and what is said."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.wenxin_operator.fake_cluster import NAMESPACE, FakeCluster, claim
from tests.wenxin_operator.fake_groups import fail_pod, groups, run_groups
from tests.wenxin_operator.passes import INLINE, refusing, set_spec, status_of
from wenxin_operator.errors import Forbidden, NotFound, Unreachable
from wenxin_operator.names import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_NO_ROOM,
    DEPLOYMENT,
    LABEL_DEPLOYMENT,
    POD,
    STATEFUL_SET,
    WENXIN_DEPLOYMENT,
    Raw,
)
from wenxin_operator.rollout import BUSIEST

GPU = {"model": INLINE["model"], "replicas": 2}
GROUPS = {"model": INLINE["model"], "parallelism": {"tensor": 16, "nodes": 2}, "replicas": 3}
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu"
SURGES = {"maxSurge": 1, "maxUnavailable": 0}
REPLACES = {"maxSurge": 0, "maxUnavailable": 1}


def says(running: int, waiting: int = 0) -> Raw:
    return {"running": running, "waiting": waiting, "slots": 8, "queue_size": 100}


def unplaced(cluster: FakeCluster, message: str = NO_GPU) -> Raw:
    """The status of a pod that the scheduler finds no node for since now."""
    since = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return {"phase": "Pending", "conditions": [told | {"message": message, "lastTransitionTime": since}]}


async def serving(spec: Raw) -> FakeCluster:
    """A deployment that answers with all its replicas, at rest."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_DEPLOYMENT, "ernie", spec)
    await cluster.settle()
    cluster.finish_inspection("ernie")
    await cluster.settle()
    run_groups(cluster) if "parallelism" in spec else cluster.run_pods("ernie")
    await cluster.settle()
    return cluster


@pytest.fixture
async def four() -> FakeCluster:
    """Four pods, the first with most to do; the last does not say."""
    cluster = await serving({**INLINE, "replicas": 4})
    cluster.says = {"ernie-0": says(4, 2), "ernie-1": says(0), "ernie-2": says(1)}
    return cluster


def costs(cluster: FakeCluster) -> Mapping[str, int]:
    """What is written on each pod."""
    written = ((pod["metadata"]["name"], pod["metadata"]["annotations"]) for pod in pods(cluster))
    return {name: int(cost) for name, notes in written if (cost := notes.get(ANNOTATION_DELETION_COST)) is not None}


def pods(cluster: FakeCluster) -> Any:
    return cluster.children(POD, NAMESPACE, LABEL_DEPLOYMENT, "ernie")


def told(cluster: FakeCluster) -> tuple[str, str, str]:
    found = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")
    return found["status"], found["reason"], found["message"]


def pace(cluster: FakeCluster) -> Raw:
    found: Raw = cluster.objects[DEPLOYMENT, "ernie"]["spec"]["strategy"]["rollingUpdate"]
    return found


class TestShrink:
    async def test_pods_are_marked_by_how_busy_they_are_before_the_count_falls(self, four: FakeCluster) -> None:
        set_spec(four, replicas=1)
        four.writes.clear()
        await four.run(WENXIN_DEPLOYMENT, "ernie")
        assert costs(four) == {"ernie-0": 6, "ernie-2": 1, "ernie-3": BUSIEST}, "0 needs no mark"
        assert four.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 1
        marks = [number for number, write in enumerate(four.writes) if write.startswith("annotate")]
        assert max(marks) < four.writes.index("apply Deployment ernie")

    async def test_the_next_shrink_goes_by_what_is_so_then(self, four: FakeCluster) -> None:
        set_spec(four, replicas=3)
        await four.settle()
        four.says = {"ernie-0": says(0), "ernie-1": says(3), "ernie-2": says(1), "ernie-3": says(2)}
        set_spec(four, replicas=2)
        await four.settle()
        assert costs(four) == {"ernie-0": 0, "ernie-1": 3, "ernie-2": 1, "ernie-3": 2}

    async def test_nothing_is_asked_or_marked_at_rest_or_when_more_are_wanted(self, four: FakeCluster) -> None:
        assert await four.settle() == []
        set_spec(four, replicas=5)
        await four.settle()
        assert costs(four) == {}

    async def test_when_all_go_nobody_is_asked(self, four: FakeCluster) -> None:
        set_spec(four, replicas=0)
        await four.settle()
        assert costs(four) == {}

    async def test_when_nobody_answers_all_are_alike_and_the_count_falls(self, four: FakeCluster) -> None:
        four.says = {}
        set_spec(four, replicas=1)
        await four.settle()
        assert set(costs(four).values()) == {BUSIEST}
        assert four.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 1

    async def test_a_pod_that_is_not_ready_is_the_cheapest_whatever_it_was(self, four: FakeCluster) -> None:
        set_spec(four, replicas=3)
        await four.settle()
        fail_pod(four, "ernie-0", {})
        set_spec(four, replicas=2)
        await four.settle()
        assert costs(four)["ernie-0"] == 0

    @pytest.mark.parametrize("error", [NotFound("gone", status=404), Forbidden("no", status=403)])
    async def test_pods_that_cannot_be_marked_stop_nothing(self, four: FakeCluster, error: Any) -> None:
        four.refuse = refusing(POD, error, verb="annotate")
        set_spec(four, replicas=1)
        await four.settle()
        assert four.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 1

    async def test_while_the_api_server_is_away_the_count_waits_for_the_marks(self, four: FakeCluster) -> None:
        four.refuse = refusing(POD, Unreachable("away"), verb="annotate")
        set_spec(four, replicas=1)
        outcome = await four.run(WENXIN_DEPLOYMENT, "ernie")
        assert isinstance(outcome.error, Unreachable)
        assert four.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 4

    async def test_a_count_that_falls_in_the_middle_of_a_rollout_marks_pods_of_both_versions(
        self, four: FakeCluster
    ) -> None:
        set_spec(four, engine={"maxNumSeqs": 5})
        await four.settle()
        four.add_pod("ernie", "ernie-new")
        four.says["ernie-new"] = says(2)
        set_spec(four, replicas=2)
        await four.settle()
        assert costs(four) == {"ernie-0": 6, "ernie-2": 1, "ernie-3": BUSIEST, "ernie-new": 2}

    async def test_of_groups_the_idlest_goes(self) -> None:
        cluster = await serving(GROUPS)
        first, second, third = groups(cluster)
        cluster.says = {f"{first}-0": says(0), f"{second}-0": says(5), f"{third}-0": says(2)}
        set_spec(cluster, replicas=1)
        await cluster.settle()
        assert groups(cluster) == [second]

    async def test_a_group_that_does_not_answer_is_not_taken_for_idle_and_one_that_is_not_ready_goes(self) -> None:
        cluster = await serving(GROUPS)
        first, second, third = groups(cluster)
        cluster.says = {f"{first}-0": says(9), f"{second}-0": says(0)}
        set_spec(cluster, replicas=2)
        await cluster.settle()
        assert groups(cluster) == [first, third]
        fail_pod(cluster, f"{third}-1", {})
        set_spec(cluster, replicas=1)
        await cluster.settle()
        assert groups(cluster) == [first]


class TestRollout:
    @pytest.fixture
    async def full(self) -> FakeCluster:
        """Two pods with a GPU each, of which there are no more; a new version is asked for."""
        cluster = await serving(GPU)
        set_spec(cluster, engine={"maxNumSeqs": 5})
        await cluster.settle()
        cluster.add_pod("ernie", "ernie-new", ready=False, status=unplaced(cluster))
        return cluster

    async def test_first_a_new_one_is_tried(self, full: FakeCluster) -> None:
        await full.settle()
        assert pace(full) == SURGES
        status, reason, message = told(full)
        assert (status, reason) == ("True", "RollingOut"), "it is no trouble yet"
        assert message.endswith("a new one waits for room beside the old ones, and after 30s an old one goes for it")
        outcome = await full.run(WENXIN_DEPLOYMENT, "ernie")
        assert outcome.requeue_after == 30

    async def test_without_room_one_goes_and_one_comes_and_the_condition_says_why(self, full: FakeCluster) -> None:
        full.sleep(30)
        await full.settle()
        assert pace(full) == REPLACES
        assert full.objects[DEPLOYMENT, "ernie"]["metadata"]["annotations"][ANNOTATION_NO_ROOM] == NO_GPU
        status, reason, message = told(full)
        assert (status, reason) == ("True", "RollingOut")
        assert message.endswith(
            f"an old one goes before a new one comes, for there was no room for one more ({NO_GPU})"
        )
        assert await full.settle() == []

    async def test_it_stays_so_until_the_rollout_is_done_and_the_next_tries_again(self, full: FakeCluster) -> None:
        full.sleep(30)
        await full.settle()
        full.edit(POD, "ernie-new", lambda pod: pod.update(status={"phase": "Running"}))
        await full.settle()
        assert pace(full) == REPLACES
        full.run_pods("ernie")
        await full.settle()
        assert pace(full) == SURGES
        assert ANNOTATION_NO_ROOM not in full.objects[DEPLOYMENT, "ernie"]["metadata"]["annotations"]
        assert told(full)[1] == "RolloutComplete"
        assert await full.settle() == []

    async def test_a_version_that_needs_more_than_there_is_costs_nothing(self) -> None:
        cluster = await serving(GPU)
        set_spec(cluster, pod={"resources": {"requests": {"cpu": "900"}}})
        await cluster.settle()
        status = unplaced(cluster, "0/1 nodes are available: 1 Insufficient cpu")
        cluster.add_pod("ernie", "ernie-new", ready=False, status=status)
        cluster.sleep(3600)
        await cluster.settle()
        assert pace(cluster) == SURGES
        status, reason, message = told(cluster)
        assert (status, reason) == ("False", "Unschedulable")
        assert "no old one goes for a new one" in message
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Available")["status"] == "True"

    async def test_a_quota_is_no_room_either(self) -> None:
        cluster = await serving(GPU)
        set_spec(cluster, engine={"maxNumSeqs": 5})
        await cluster.settle()
        message = 'pods "ernie-x" is forbidden: exceeded quota: gpus, requested: 1, used: 2, limited: 2'
        failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        at = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"conditions": [failed | {"lastTransitionTime": at}]}
        cluster.edit(DEPLOYMENT, "ernie", lambda thing: thing.update(status=status))
        await cluster.settle()
        assert (pace(cluster), told(cluster)[1]) == (SURGES, "RollingOut")
        cluster.sleep(30)
        await cluster.settle()
        assert (pace(cluster), told(cluster)[1]) == (REPLACES, "RollingOut")

    async def test_with_one_replica_the_gap_is_told_and_lasts_in_words_until_the_new_one_answers(self) -> None:
        cluster = await serving(GPU | {"replicas": 1})
        set_spec(cluster, engine={"maxNumSeqs": 5})
        await cluster.settle()
        cluster.add_pod("ernie", "ernie-new", ready=False, status=unplaced(cluster))
        cluster.sleep(30)
        await cluster.settle()
        assert told(cluster)[2].endswith("; until the new one is ready, nothing answers")
        cluster.remove(POD, "ernie-0")
        cluster.edit(POD, "ernie-new", lambda pod: pod.update(status={"phase": "Running"}))
        cluster.publish("ernie")
        await cluster.settle()
        assert told(cluster)[2].endswith("; until the new one is ready, nothing answers")
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Available")["status"] == "False"

    async def test_groups_try_too_and_never_more_than_one_is_out(self) -> None:
        cluster = await serving(GROUPS)
        old = groups(cluster)
        set_spec(cluster, maxModelLen=4096)
        await cluster.settle()
        (new,) = set(groups(cluster)) - set(old)
        run_groups(cluster, unready=[new])
        fail_pod(cluster, f"{new}-1", unplaced(cluster))
        await cluster.settle()
        assert len(groups(cluster)) == 4
        assert "waits for room" in told(cluster)[2]
        cluster.sleep(30)
        await cluster.settle()
        assert len(set(groups(cluster)) & set(old)) == 2
        assert cluster.objects[STATEFUL_SET, new]["metadata"]["annotations"][ANNOTATION_NO_ROOM] == NO_GPU
        assert "for there was no room for one more" in told(cluster)[2]
        answering = []
        for _ in range(6):
            run_groups(cluster)
            await cluster.settle()
            answering.append(status_of(cluster)["readyReplicas"])
        assert min(answering) >= 2
        assert not set(groups(cluster)) & set(old)
        assert told(cluster)[1] == "RolloutComplete"
        notes = (cluster.objects[STATEFUL_SET, name]["metadata"]["annotations"] for name in groups(cluster))
        assert not any(ANNOTATION_NO_ROOM in each for each in notes)
