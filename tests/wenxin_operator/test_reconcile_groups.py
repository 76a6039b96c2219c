"""The stories of a WenxinDeployment whose replicas are groups of pods, told on a cluster in memory."""

import pytest

from tests.wenxin_operator.fake_cluster import NAMESPACE, FakeCluster, claim
from tests.wenxin_operator.fake_groups import fail_pod, groups, run_groups, run_leader_worker_set
from tests.wenxin_operator.passes import INLINE, set_spec, status_of
from wenxin_operator.errors import Invalid
from wenxin_operator.names import (
    CONFIG_MAP,
    DEPLOYMENT,
    LABEL_DEPLOYMENT,
    LEADER_WORKER_SET,
    NETWORK_POLICY,
    POD,
    SERVICE,
    STATEFUL_SET,
    WENXIN_DEPLOYMENT,
    Raw,
)

ON_CPU = INLINE | {"parallelism": {"tensor": 2, "nodes": 2}}
ON_GPUS = {"model": INLINE["model"], "parallelism": {"tensor": 16, "nodes": 2}, "replicas": 3}
LEADERS = {
    "serving.wenxin.io/deployment": "ernie",
    "app.kubernetes.io/component": "runtime",
    "apps.kubernetes.io/pod-index": "0",
}


async def serving(spec: Raw, cluster: FakeCluster | None = None) -> FakeCluster:
    """A cluster in which a deployment of groups is at rest, but for its pods."""
    cluster = cluster or FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_DEPLOYMENT, "ernie", spec)
    await cluster.settle()
    cluster.finish_inspection("ernie")
    await cluster.settle()
    return cluster


async def answering(spec: Raw) -> FakeCluster:
    """The same with its pods, all of them ready."""
    cluster = await serving(spec)
    run_groups(cluster)
    await cluster.settle()
    return cluster


@pytest.fixture
async def cpu() -> FakeCluster:
    """One group of two pods, serving."""
    return await answering(ON_CPU)


@pytest.fixture
async def gpus() -> FakeCluster:
    """Three groups of two pods with eight GPUs each, serving."""
    return await answering(ON_GPUS)


def told(cluster: FakeCluster, condition: str = "Progressing") -> tuple[str, str]:
    found = cluster.condition(WENXIN_DEPLOYMENT, "ernie", condition)
    return found["reason"], found["message"]


class TestFromNothing:
    async def test_verified_weights_bring_one_stateful_set_for_each_group_and_no_deployment(self) -> None:
        cluster = await serving(ON_GPUS)
        assert len(groups(cluster)) == 3
        assert cluster.names(DEPLOYMENT) == []
        assert told(cluster, "Available")[0] == "NoPodAnswers"

    async def test_ready_means_that_every_groups_leader_answers(self, gpus: FakeCluster) -> None:
        assert told(gpus, "Ready") == ("Answering", "3 of 3 groups answer")
        assert told(gpus) == ("RolloutComplete", "all 3 groups are of the newest revision")

    async def test_counts_are_of_groups_and_gpus_of_whole_ones(self, gpus: FakeCluster) -> None:
        status = status_of(gpus)
        assert (status["replicas"], status["readyReplicas"], status["gpus"]) == (3, 3, 48)

    async def test_requests_and_autoscalers_see_leaders_only(self, cpu: FakeCluster) -> None:
        assert cpu.objects[SERVICE, "ernie"]["spec"]["selector"] == LEADERS
        assert status_of(cpu)["selector"] == ",".join(f"{key}={value}" for key, value in LEADERS.items())

    async def test_at_rest_nothing_is_written(self, gpus: FakeCluster) -> None:
        gpus.sleep(3600)
        assert await gpus.settle() == []

    async def test_deleting_the_resource_takes_everything_with_it(self, gpus: FakeCluster) -> None:
        gpus.remove(WENXIN_DEPLOYMENT, "ernie")
        assert [kind for kind, _ in gpus.objects] == ["PersistentVolumeClaim"]

    async def test_pods_of_a_deployment_talk_to_each_other_and_others_only_to_the_endpoint(
        self, cpu: FakeCluster
    ) -> None:
        own = {"podSelector": {"matchLabels": {name: LEADERS[name] for name in list(LEADERS)[:2]}}}
        spec = cpu.objects[NETWORK_POLICY, "ernie"]["spec"]
        assert spec["ingress"][1:] == [{"from": [own]}]
        assert spec["egress"][1:] == [{"to": [own]}]
        assert spec["ingress"][0]["ports"] == [{"port": 8000, "protocol": "TCP"}]


class TestRepair:
    async def test_a_deleted_group_is_made_anew_under_a_name_of_its_own(self, gpus: FakeCluster) -> None:
        before = groups(gpus)
        gone = gpus.objects[STATEFUL_SET, before[1]]
        draining = gpus.objects[POD, f"{before[1]}-1"]
        gpus.remove(STATEFUL_SET, before[1])
        gpus._store({**draining, "metadata": {**draining["metadata"], "deletionTimestamp": "now"}})
        await gpus.settle()
        assert len(groups(gpus)) == 3
        assert before[1] not in groups(gpus), "its pods are still there"
        (made,) = set(groups(gpus)) - set(before)
        template = gpus.objects[STATEFUL_SET, made]["spec"]["template"]["spec"]
        assert template == gone["spec"]["template"]["spec"]

    async def test_an_edited_group_is_put_back(self, cpu: FakeCluster) -> None:
        (name,) = groups(cpu)
        before = cpu.objects[STATEFUL_SET, name]["spec"]
        cpu.edit(STATEFUL_SET, name, lambda thing: thing["spec"].update(replicas=1))
        assert f"apply StatefulSet {name}" in await cpu.settle()
        assert cpu.objects[STATEFUL_SET, name]["spec"] == before

    async def test_a_group_that_the_cluster_refuses_is_the_specs_fault(self) -> None:
        cluster = FakeCluster()
        invalid = Invalid("spec.template: no", status=422, reason="Invalid")
        cluster.refuse = lambda verb, thing: invalid if thing["kind"] == STATEFUL_SET and verb == "apply" else None
        await serving(ON_CPU, cluster)
        assert told(cluster, "Accepted")[0] == "RejectedByCluster"


class TestScale:
    async def test_more_groups_are_made_beside_those_that_serve(self, gpus: FakeCluster) -> None:
        before = groups(gpus)
        set_spec(gpus, replicas=5)
        writes = await gpus.settle()
        assert set(before) < set(groups(gpus))
        assert len(groups(gpus)) == 5
        assert not any(write.startswith(f"apply StatefulSet {name}") for name in before for write in writes)

    async def test_of_fewer_groups_one_that_does_not_serve_goes_first(self, gpus: FakeCluster) -> None:
        first, second, third = groups(gpus)
        fail_pod(gpus, f"{first}-1", {})
        set_spec(gpus, replicas=2)
        await gpus.settle()
        assert groups(gpus) == [second, third]

    async def test_zero_is_rest_and_not_ready(self, gpus: FakeCluster) -> None:
        set_spec(gpus, replicas=0)
        await gpus.settle()
        assert groups(gpus) == []
        assert told(gpus, "Ready") == ("ScaledToZero", "spec.replicas is 0; `kubectl scale` brings groups back")


class TestRollout:
    async def test_asked_to_replace_one_group_goes_and_one_comes_until_all_are_new(self, gpus: FakeCluster) -> None:
        old, answering = groups(gpus), []
        set_spec(gpus, maxModelLen=4096, rollout={"strategy": "Replace"})
        for _ in range(6):
            await gpus.settle()
            answering.append(status_of(gpus)["readyReplicas"])
            run_groups(gpus)
        assert min(answering) == 2, "at most one at a time is out"
        assert len(groups(gpus)) == 3
        assert not set(old) & set(groups(gpus))
        assert told(gpus, "Ready")[0] == "Answering"

    async def test_a_group_goes_when_its_successor_serves(self, cpu: FakeCluster) -> None:
        (old,) = groups(cpu)
        set_spec(cpu, maxModelLen=4096)
        await cpu.settle()
        (new,) = set(groups(cpu)) - {old}
        run_groups(cpu, unready=[new])
        await cpu.settle()
        assert set(groups(cpu)) == {old, new}
        reason, message = told(cpu)
        assert reason == "RollingOut"
        assert message.startswith("0 of 1 groups of the newest revision answer; 1 of older ones are still there; ")
        assert message.endswith("a new one comes before an old one goes, as long as there is room")
        run_groups(cpu)
        await cpu.settle()
        assert old not in groups(cpu)
        assert told(cpu, "Ready")[0] == "Answering"

    async def test_one_that_never_becomes_ready_leaves_the_others_serving(self, gpus: FakeCluster) -> None:
        old = groups(gpus)
        set_spec(gpus, maxModelLen=4096)
        await gpus.settle()
        (new,) = set(groups(gpus)) - set(old)
        run_groups(gpus, unready=[new])
        assert await gpus.settle() != []
        assert await gpus.settle() == []
        assert set(old) < set(groups(gpus))
        assert told(gpus, "Available")[0] == "Answering"

    async def test_one_that_takes_longer_than_any_load_says_so(self, gpus: FakeCluster) -> None:
        old = groups(gpus)
        set_spec(gpus, maxModelLen=4096)
        await gpus.settle()
        (new,) = set(groups(gpus)) - set(old)
        run_groups(gpus, unready=[new])
        born = gpus.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        gpus.edit(STATEFUL_SET, new, lambda thing: thing["metadata"].update(creationTimestamp=born))
        gpus.sleep(3600)
        await gpus.settle()
        assert told(gpus)[0] == "RollingOut"
        gpus.sleep(1)
        await gpus.settle()
        assert told(gpus) == ("ProgressDeadlineExceeded", f"group {new} has not become ready in 60 minutes")
        assert set(old) < set(groups(gpus))

    async def test_going_back_keeps_the_groups_that_still_serve(self, gpus: FakeCluster) -> None:
        def existing() -> set[str]:
            return {gpus.objects[STATEFUL_SET, name]["metadata"]["uid"] for name in groups(gpus)}

        old = existing()
        set_spec(gpus, maxModelLen=4096, rollout={"strategy": "Replace"})
        await gpus.settle()
        gpus.edit(WENXIN_DEPLOYMENT, "ernie", lambda thing: thing["spec"].pop("maxModelLen"))
        await gpus.settle()
        assert len(existing() & old) == 2
        assert len(existing()) == 3

    async def test_old_flags_stay_while_a_group_reads_them(self, gpus: FakeCluster) -> None:
        set_spec(gpus, maxModelLen=4096)
        await gpus.settle()
        assert len(gpus.names(CONFIG_MAP)) == 2
        for _ in range(5):
            run_groups(gpus)
            await gpus.settle()
        assert len(gpus.names(CONFIG_MAP)) == 1


class TestTrouble:
    async def test_a_group_that_waits_for_a_pod_says_so(self, cpu: FakeCluster) -> None:
        (name,) = groups(cpu)
        cpu.remove(POD, f"{name}-1")
        fail_pod(cpu, f"{name}-0", {})
        cpu.publish("ernie")
        await cpu.settle()
        assert told(cpu)[1].endswith(f"; group {name} waits for its pods: 1 of 2 are there")

    async def test_a_group_of_which_no_pod_can_be_made_says_so(self) -> None:
        cluster = await serving(ON_CPU)
        (name,) = groups(cluster)
        assert told(cluster)[1].endswith(f"; group {name} waits for its pods: 0 of 2 are there")

    async def test_a_group_whose_leader_is_not_ready_yet_says_so(self, cpu: FakeCluster) -> None:
        (name,) = groups(cpu)
        fail_pod(cpu, f"{name}-0", {})
        cpu.publish("ernie")
        await cpu.settle()
        assert told(cpu)[1].endswith(f"; group {name} waits for its pods: 1 of 2 are ready")

    async def test_a_workers_problem_names_the_worker(self, gpus: FakeCluster) -> None:
        first, *_ = groups(gpus)
        waiting = {"reason": "ErrImagePull", "message": "not found"}
        container = {"name": "runtime", "image": "wenxin:1", "ready": False, "state": {"waiting": waiting}}
        fail_pod(gpus, f"{first}-1", {"phase": "Pending", "containerStatuses": [container]})
        await gpus.settle()
        reason, message = told(gpus)
        assert reason == "ImagePullBackOff"
        assert message.startswith(f"1 of 3 groups: node 1 (worker) of group {first}: image wenxin:1 cannot be pulled")

    async def test_what_ended_a_group_is_told_before_what_followed_from_it(self, cpu: FakeCluster) -> None:
        (name,) = groups(cpu)
        lost = '{"reason": "RankLost", "message": "rank 1 is gone"}'
        fail_pod(cpu, f"{name}-0", ended(4, lost))
        fail_pod(cpu, f"{name}-1", ended(2, '{"reason": "GroupMismatch", "message": "another version"}'))
        cpu.publish("ernie")
        await cpu.settle()
        assert told(cpu) == ("GroupMismatch", f"node 1 (worker) of group {name}: another version")
        assert told(cpu, "Ready")[0] == "GroupMismatch"

    async def test_a_lost_rank_is_told(self, cpu: FakeCluster) -> None:
        (name,) = groups(cpu)
        fail_pod(cpu, f"{name}-0", ended(4, '{"reason": "RankLost", "message": "rank 1 is gone"}'))
        cpu.publish("ernie")
        await cpu.settle()
        assert told(cpu) == ("RankLost", f"node 0 (leader) of group {name}: rank 1 is gone")


def ended(code: int, words: str) -> Raw:
    state = {"terminated": {"exitCode": code, "message": words}}
    return {"phase": "Running", "containerStatuses": [{"name": "runtime", "ready": False, "state": state}]}


class TestLeaderWorkerSet:
    @pytest.fixture
    async def cluster(self) -> FakeCluster:
        cluster = await serving(ON_GPUS, FakeCluster(served={LEADER_WORKER_SET}))
        run_leader_worker_set(cluster)
        await cluster.settle()
        return cluster

    async def test_where_there_are_some_one_of_them_makes_all_groups(self, cluster: FakeCluster) -> None:
        assert len(cluster.names(LEADER_WORKER_SET)) == 1
        assert cluster.names(STATEFUL_SET) == cluster.names(DEPLOYMENT) == []
        assert cluster.names(SERVICE) == ["ernie"], "its controller makes the headless one"

    async def test_ready_and_counts_are_of_groups(self, cluster: FakeCluster) -> None:
        assert told(cluster, "Ready") == ("Answering", "3 of 3 groups answer")
        status = status_of(cluster)
        assert (status["replicas"], status["readyReplicas"], status["gpus"]) == (3, 3, 48)
        assert status["selector"].endswith("leaderworkerset.sigs.k8s.io/worker-index=0")
        assert await cluster.settle() == []

    async def test_fewer_groups_say_that_ordinals_decide(self, cluster: FakeCluster) -> None:
        set_spec(cluster, replicas=2)
        await cluster.settle()
        (lws,) = cluster.names(LEADER_WORKER_SET)
        assert cluster.objects[LEADER_WORKER_SET, lws]["spec"]["replicas"] == 2
        assert told(cluster)[1].endswith("takes groups away by ordinal, the highest first, not the idlest")

    async def test_a_rollout_is_its_controllers(self, cluster: FakeCluster) -> None:
        set_spec(cluster, maxModelLen=4096)
        await cluster.settle()
        assert told(cluster)[0] == "RollingOut"
        run_leader_worker_set(cluster)
        await cluster.settle()
        assert told(cluster, "Ready")[0] == "Answering"

    async def test_stateful_sets_that_serve_stay_when_it_comes_later(self, gpus: FakeCluster) -> None:
        gpus.served.add(LEADER_WORKER_SET)
        assert await gpus.settle() == []
        set_spec(gpus, maxModelLen=4096)
        await gpus.settle()
        assert gpus.names(LEADER_WORKER_SET) == []


class TestOneNodeAndSeveral:
    async def test_on_a_cpu_the_pods_serve_until_the_groups_do(self, cluster: FakeCluster) -> None:
        (pod,) = cluster.children(POD, NAMESPACE, LABEL_DEPLOYMENT, "ernie")
        set_spec(cluster, parallelism={"tensor": 2, "nodes": 2})
        await cluster.settle()
        assert cluster.names(DEPLOYMENT) == ["ernie"]
        assert cluster.objects[SERVICE, "ernie"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        run_groups(cluster)
        assert told(cluster, "Available")[0] == "Answering"
        await cluster.settle()
        assert cluster.names(DEPLOYMENT) == []
        run_groups(cluster)
        await cluster.settle()
        assert cluster.objects[SERVICE, "ernie"]["spec"]["selector"] == LEADERS
        assert told(cluster, "Ready")[0] == "Answering"

    async def test_on_a_cpu_the_groups_serve_until_the_pods_do(self, cpu: FakeCluster) -> None:
        set_spec(cpu, parallelism={"tensor": 2, "nodes": 1})
        await cpu.settle()
        assert len(groups(cpu)) == 1
        assert cpu.objects[SERVICE, "ernie"]["spec"]["selector"] == LEADERS
        cpu.add_pod("ernie", "ernie-new")
        await cpu.settle()
        assert groups(cpu) == []
        cpu.publish("ernie")
        await cpu.settle()
        assert told(cpu, "Ready")[0] == "Answering"
        assert "apps.kubernetes.io/pod-index" not in status_of(cpu)["selector"]
        assert len(cpu.names(SERVICE)) == 1

    async def test_on_gpus_the_old_ones_make_room_first(self, gpus: FakeCluster) -> None:
        set_spec(gpus, parallelism={"tensor": 8})
        await gpus.settle()
        assert groups(gpus) == []
        assert gpus.names(DEPLOYMENT) == ["ernie"]

    async def test_members_that_still_drain_get_no_requests_meant_for_new_pods(self, gpus: FakeCluster) -> None:
        first = groups(gpus)[0]
        draining = gpus.objects[POD, f"{first}-1"]
        set_spec(gpus, parallelism={"tensor": 8})
        await gpus.run(WENXIN_DEPLOYMENT, "ernie")
        gpus._store({**draining, "metadata": {**draining["metadata"], "deletionTimestamp": "now"}})
        await gpus.settle()
        chosen = gpus.objects[SERVICE, "ernie"]["spec"]["selector"]
        assert not chosen.items() <= draining["metadata"]["labels"].items()
        assert len(gpus.objects[NETWORK_POLICY, "ernie"]["spec"]["ingress"]) == 2, "they need each other to the end"
        gpus.remove(POD, f"{first}-1")
        await gpus.settle()
        assert len(gpus.objects[NETWORK_POLICY, "ernie"]["spec"]["ingress"]) == 1
