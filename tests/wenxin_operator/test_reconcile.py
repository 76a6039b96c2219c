"""The stories of a pass over a WenxinDeployment, told on a cluster in memory."""

from typing import Any

import pytest

from tests.contract.inspected import INSPECTED
from tests.wenxin_operator.fake_cluster import FakeCluster, Settings, claim
from tests.wenxin_operator.passes import INLINE, refusing, set_spec, status_of
from wenxin_operator.errors import Cause, Invalid
from wenxin_operator.names import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    JOB,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    SERVICE_ACCOUNT,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Raw,
)


class TestFromNothing:
    async def test_all_but_the_pods_come_at_once(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)
        await cluster.settle()
        assert cluster.names(SERVICE) == cluster.names(SERVICE_ACCOUNT) == cluster.names(WENXIN_MODEL) == ["ernie"]
        assert cluster.names(NETWORK_POLICY) == ["ernie", "ernie-inspect"]
        assert cluster.names(DEPLOYMENT) == cluster.names(CONFIG_MAP) == cluster.names(CONTROLLER_REVISION) == []
        assert len(cluster.names(JOB)) == 1

    async def test_scale_has_what_it_needs_from_the_first_pass(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)
        await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        status = status_of(cluster)
        assert (status["replicas"], status["readyReplicas"]) == (0, 0)
        assert status["selector"] == "serving.wenxin.io/deployment=ernie,app.kubernetes.io/component=runtime"

    async def test_verified_weights_bring_the_pods(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["reason"] == "Inspecting"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Available")["reason"] == "NoPodAnswers"
        cluster.finish_inspection("ernie")
        await cluster.settle()
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 1
        assert cluster.conditions(WENXIN_DEPLOYMENT, "ernie") == {
            "Accepted": "True",
            "ModelReady": "True",
            "Progressing": "True",
            "Available": "False",
            "Ready": "False",
        }

    async def test_ready_means_that_it_answers(self, cluster: FakeCluster) -> None:
        assert cluster.conditions(WENXIN_DEPLOYMENT, "ernie") == {
            "Accepted": "True",
            "ModelReady": "True",
            "Progressing": "False",
            "Available": "True",
            "Ready": "True",
        }
        status = status_of(cluster)
        assert (status["replicas"], status["readyReplicas"], status["gpus"]) == (1, 1, 0)
        assert status["endpoint"] == "http://ernie.team.svc:8000/v1"
        assert status["model"]["digest"] == INSPECTED["digest"]
        assert {one["observedGeneration"] for one in status["conditions"]} == {1}

    async def test_pods_of_another_component_are_no_replicas(self, cluster: FakeCluster) -> None:
        labels = {"serving.wenxin.io/deployment": "ernie", "app.kubernetes.io/component": "redis"}
        state = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        metadata = {"name": "ernie-redis-0", "labels": labels}
        cluster._store({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": state})
        assert await cluster.settle() == []
        assert status_of(cluster)["replicas"] == 1

    async def test_at_rest_nothing_is_written(self, cluster: FakeCluster) -> None:
        cluster.sleep(3600)
        assert await cluster.settle() == []
        outcome = await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        assert (outcome.changed, outcome.error, outcome.requeue_after) == (False, None, None)

    async def test_no_object_carries_a_finalizer(self, cluster: FakeCluster) -> None:
        assert not [thing for thing in cluster.objects.values() if thing["metadata"].get("finalizers")]

    async def test_deleting_the_resource_takes_everything_with_it(self, cluster: FakeCluster) -> None:
        cluster.remove(WENXIN_DEPLOYMENT, "ernie")
        assert [kind for kind, _ in cluster.objects] == ["PersistentVolumeClaim"]
        assert await cluster.settle() == []

    async def test_a_resource_on_its_way_out_is_left_alone(self, cluster: FakeCluster) -> None:
        cluster.edit(WENXIN_DEPLOYMENT, "ernie", lambda thing: thing["metadata"].update(deletionTimestamp="now"))
        cluster.remove(SERVICE, "ernie")
        assert await cluster.settle() == []


class TestRepair:
    @pytest.mark.parametrize(
        ("kind", "edit"),
        [
            (DEPLOYMENT, lambda thing: thing["spec"].update(replicas=7)),
            (DEPLOYMENT, lambda thing: thing["spec"]["template"]["spec"]["containers"][0].update(image="evil")),
            (SERVICE, lambda thing: thing["spec"].update(selector={"app": "other"})),
            (NETWORK_POLICY, lambda thing: thing["spec"].update(ingress=[{}])),
            (SERVICE_ACCOUNT, lambda thing: thing.update(automountServiceAccountToken=True)),
            (DEPLOYMENT, lambda thing: thing["metadata"]["labels"].update({"app.kubernetes.io/name": "mine"})),
            (WENXIN_MODEL, lambda thing: thing["spec"].update(source="pvc://weights/other")),
        ],
    )
    async def test_an_edited_child_is_put_back(self, cluster: FakeCluster, kind: str, edit: Any) -> None:
        before = cluster.objects[kind, "ernie"]
        cluster.edit(kind, "ernie", edit)
        await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        after = cluster.objects[kind, "ernie"]
        assert after.get("spec") == before.get("spec")
        assert after["metadata"]["labels"] == before["metadata"]["labels"]

    async def test_a_quantity_spelled_otherwise_is_left_alone(self, cluster: FakeCluster) -> None:
        def respell(thing: Raw) -> None:
            resources = thing["spec"]["template"]["spec"]["containers"][0]["resources"]
            assert resources["requests"]["cpu"] == "500m"
            resources["requests"]["cpu"] = "0.5"

        cluster.edit(DEPLOYMENT, "ernie", respell)
        assert await cluster.settle() == []

    @pytest.mark.parametrize("kind", [DEPLOYMENT, SERVICE, NETWORK_POLICY, SERVICE_ACCOUNT])
    async def test_a_deleted_child_comes_back(self, cluster: FakeCluster, kind: str) -> None:
        cluster.remove(kind, "ernie")
        assert f"apply {kind} ernie" in await cluster.settle()
        assert cluster.names(kind)[0] == "ernie"

    async def test_a_child_that_is_no_longer_planned_is_pruned(self, cluster: FakeCluster) -> None:
        set_spec(cluster, replicas=2)
        await cluster.settle()
        assert cluster.names(POD_DISRUPTION_BUDGET) == ["ernie"]
        set_spec(cluster, replicas=1)
        await cluster.settle()
        assert cluster.names(POD_DISRUPTION_BUDGET) == []

    async def test_going_over_to_a_shared_model_prunes_its_own(self, cluster: FakeCluster) -> None:
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
        set_spec(cluster, model={"ref": "shared"})
        await cluster.settle()
        assert cluster.names(WENXIN_MODEL) == ["ernie", "shared"], "the pods follow it until the other one is verified"
        cluster.finish_inspection("shared")
        await cluster.settle()
        assert cluster.names(WENXIN_MODEL) == ["shared"]
        assert status_of(cluster)["model"]["name"] == "shared"
        assert cluster.objects[DEPLOYMENT, "ernie"]["metadata"]["generation"] == 1, "the same weights roll no pod"

    async def test_its_own_model_and_the_claim_of_that_stay_until_the_last_older_pod_is_gone(
        self, cluster: FakeCluster
    ) -> None:
        other = {**INSPECTED, "digest": f"sha256:{'1' * 64}"}
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/other"})
        set_spec(cluster, model={"ref": "shared"})
        await cluster.settle()
        cluster.finish_inspection("shared", other)
        await cluster.settle()
        assert cluster.names(WENXIN_MODEL) == ["ernie", "shared"]
        cluster.run_pods("ernie")
        await cluster.settle()
        assert cluster.names(WENXIN_MODEL) == ["shared"]

    async def test_a_field_that_is_no_longer_planned_is_taken_away(self, cluster: FakeCluster) -> None:
        set_spec(cluster, pod={"nodeSelector": {"disk": "fast"}})
        await cluster.settle()
        set_spec(cluster, pod={})
        await cluster.settle()
        assert "nodeSelector" not in cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"]["spec"]

    async def test_what_an_apply_can_not_put_right_is_overwritten(self, cluster: FakeCluster) -> None:
        cluster.edit(SERVICE, "ernie", lambda thing: thing["spec"]["ports"][0].update(port=9000))
        cluster.refuse = refusing(SERVICE, Invalid("duplicate port name", status=422))
        assert "overwrite Service ernie" in await cluster.settle()
        assert [port["port"] for port in cluster.objects[SERVICE, "ernie"]["spec"]["ports"]] == [8000]


class TestScale:
    async def test_the_count_goes_to_the_workload_and_nothing_else_moves(self, cluster: FakeCluster) -> None:
        template = cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"]
        set_spec(cluster, replicas=3)
        await cluster.settle()
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 3
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"] == template

    async def test_zero_is_rest_and_not_ready(self, cluster: FakeCluster) -> None:
        set_spec(cluster, replicas=0)
        await cluster.settle()
        cluster.run_pods("ernie")
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["reason"] == "ScaledToZero"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Available")["reason"] == "ScaledToZero"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "RolloutComplete"

    async def test_more_pods_may_be_wanted_while_the_model_is_failing(self, cluster: FakeCluster) -> None:
        cluster.remove("PersistentVolumeClaim", "weights")
        set_spec(cluster, replicas=2)
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["reason"] == "ClaimNotFound"
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 2


class TestRollout:
    async def test_ready_waits_for_the_new_revision(self, cluster: FakeCluster) -> None:
        set_spec(cluster, engine={"maxNumSeqs": 5})
        await cluster.settle()
        ready = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "RollingOut")
        assert ready["message"] == (
            "0 of 1 pods of the newest revision answer; 1 of older ones are still there; "
            "a new one comes before an old one goes, as long as there is room"
        )
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Available")["status"] == "True"
        cluster.run_pods("ernie")
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["status"] == "True"

    async def test_a_ready_pod_counts_once_it_stands_in_the_endpoint_slice(self, cluster: FakeCluster) -> None:
        set_spec(cluster, replicas=2)
        await cluster.settle()
        cluster.run_pods("ernie")
        cluster.publish("ernie", without=["ernie-1"])
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["message"].startswith("1 of 2 pods")
        cluster.publish("ernie")
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["status"] == "True"

    async def test_old_flags_stay_until_the_last_pod_that_mounts_them_is_gone(self, cluster: FakeCluster) -> None:
        old = cluster.names(CONFIG_MAP)
        set_spec(cluster, engine={"maxNumSeqs": 5})
        await cluster.settle()
        assert len(cluster.names(CONFIG_MAP)) == 2
        cluster.run_pods("ernie")
        await cluster.settle()
        assert len(cluster.names(CONFIG_MAP)) == 1
        assert cluster.names(CONFIG_MAP) != old

    async def test_a_new_default_image_rolls_out_but_inspects_nothing_anew(self, cluster: FakeCluster) -> None:
        jobs = cluster.names(JOB)
        cluster.settings = Settings(runtime_image="registry.example/wenxin/runtime:2")
        await cluster.settle()
        (container,) = cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/wenxin/runtime:2"
        assert cluster.names(JOB) == jobs

    async def test_only_the_newest_accepted_spec_is_kept(self, cluster: FakeCluster) -> None:
        (first,) = cluster.names(CONTROLLER_REVISION)
        set_spec(cluster, engine={"maxNumSeqs": 5})
        await cluster.settle()
        (second,) = cluster.names(CONTROLLER_REVISION)
        assert second != first
        assert cluster.objects[CONTROLLER_REVISION, second]["revision"] == 2


class TestRefusedUpdate:
    async def test_it_changes_no_child_and_says_why(self, cluster: FakeCluster) -> None:
        set_spec(cluster, parallelism={"tensor": 3}, replicas=5)
        assert await cluster.settle() == ["status WenxinDeployment ernie"]
        accepted = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
        assert accepted["message"] == (
            "spec.parallelism.tensor: must be 1, 2, 4, 8, 16, 32 or 64: no other number cuts these models evenly; "
            "the last accepted spec goes on being served"
        )
        assert accepted["observedGeneration"] == 2

    async def test_what_serves_is_still_available_but_not_what_was_asked_for(self, cluster: FakeCluster) -> None:
        set_spec(cluster, parallelism={"tensor": 3})
        await cluster.settle()
        assert cluster.conditions(WENXIN_DEPLOYMENT, "ernie") == {
            "Accepted": "False",
            "ModelReady": "True",
            "Progressing": "False",
            "Available": "True",
            "Ready": "False",
        }
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["reason"] == "NotAccepted"

    async def test_the_last_accepted_spec_is_still_repaired_its_count_included(self, cluster: FakeCluster) -> None:
        set_spec(cluster, parallelism={"tensor": 3}, replicas=9)
        await cluster.settle()
        cluster.remove(SERVICE, "ernie")
        cluster.edit(DEPLOYMENT, "ernie", lambda thing: thing["spec"].update(replicas=4))
        await cluster.settle()
        assert cluster.names(SERVICE) == ["ernie"]
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 1

    async def test_longer_than_the_model_was_made_for_is_refused_once_that_is_known(self, cluster: FakeCluster) -> None:
        set_spec(cluster, maxModelLen=200_000)
        assert await cluster.settle() == ["status WenxinDeployment ernie"]
        accepted = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Accepted")
        assert accepted["reason"] == "ModelLenTooLong"
        assert accepted["message"].startswith(
            "spec.maxModelLen: 200000 is more than the 131072 tokens that model ernie"
        )

    async def test_correcting_it_brings_everything_back_without_a_new_pod(self, cluster: FakeCluster) -> None:
        generation = cluster.objects[DEPLOYMENT, "ernie"]["metadata"]["generation"]
        set_spec(cluster, parallelism={"tensor": 3})
        await cluster.settle()
        set_spec(cluster, parallelism={"tensor": 1})
        assert await cluster.settle() == ["status WenxinDeployment ernie"]
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["status"] == "True"
        assert cluster.objects[DEPLOYMENT, "ernie"]["metadata"]["generation"] == generation

    async def test_it_is_an_event_once(self, cluster: FakeCluster) -> None:
        cluster.events.clear()
        set_spec(cluster, parallelism={"tensor": 3})
        await cluster.settle()
        await cluster.settle()
        (event,) = cluster.events
        assert (event.type, event.reason, event.regarding.name) == ("Warning", "InvalidSpec", "ernie")
        assert "spec.parallelism.tensor" in event.note

    async def test_a_first_spec_that_is_refused_makes_nothing(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {**INLINE, "parallelism": {"tensor": 3}})
        assert await cluster.settle() == ["status WenxinDeployment ernie"]
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "NotAccepted"

    async def test_a_pod_template_that_the_api_server_refuses_is_not_accepted(self, cluster: FakeCluster) -> None:
        kept = cluster.names(CONTROLLER_REVISION)
        template = cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"]
        cause = Cause("spec.template.spec.affinity", "unknown field")
        error = Invalid("Deployment is invalid", status=422, causes=(cause,))
        cluster.refuse = lambda _verb, thing: error if thing["kind"] == DEPLOYMENT else None
        set_spec(cluster, pod={"affinity": {"bogus": {}}})
        outcome = await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        assert outcome.error is error
        accepted = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Accepted")
        assert accepted["reason"] == "RejectedByCluster"
        assert accepted["message"] == (
            "Deployment ernie: spec.template.spec.affinity: unknown field; "
            "the last accepted spec goes on being served; correct the fields of spec.pod that this follows from"
        )
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "NotAccepted"
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"] == template
        assert cluster.names(CONTROLLER_REVISION) == kept, "what was not taken is nothing to go back to"
