"""The stories of a pass over a WenxinModel, told on a cluster in memory."""

from tests.contract.inspected import INSPECTED
from tests.wenxin_operator.fake_cluster import FakeCluster, Settings, claim
from tests.wenxin_operator.passes import INLINE, set_spec, status_of
from wenxin_operator.names import (
    DEPLOYMENT,
    JOB,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
)


async def serving_a_shared_model() -> FakeCluster:
    """One deployment that names a verified WenxinModel by reference."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
    cluster.create(WENXIN_DEPLOYMENT, "ernie", {**INLINE, "model": {"ref": "shared"}})
    await cluster.settle()
    cluster.finish_inspection("shared")
    await cluster.settle()
    return cluster


class TestModel:
    async def test_a_missing_claim_is_named_with_the_field(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://nowhere/ernie"})
        await cluster.settle()
        ready = cluster.condition(WENXIN_MODEL, "shared", "Ready")
        assert ready["reason"] == "ClaimNotFound"
        assert ready["message"].startswith("spec.source: this namespace has no PersistentVolumeClaim nowhere")
        assert cluster.names(JOB) == []

    async def test_a_missing_model_is_named_with_the_field(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {"model": {"ref": "nobody"}})
        await cluster.settle()
        model_ready = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")
        assert model_ready["reason"] == "ModelNotFound"
        assert model_ready["message"].startswith("spec.model.ref: this namespace has no WenxinModel nobody")

    async def test_an_inline_source_is_spoken_of_as_the_user_wrote_it(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {"model": {"source": "pvc://nowhere/x"}})
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["message"].startswith("spec.model.source: ")

    async def test_what_the_inspection_says_becomes_the_condition(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
        await cluster.settle()
        cluster.finish_inspection("shared", failed={"reason": "InvalidCheckpoint", "message": "config.json is missing"})
        await cluster.settle()
        ready = cluster.condition(WENXIN_MODEL, "shared", "Ready")
        assert ready["reason"] == "InvalidCheckpoint"
        assert ready["message"] == "config.json is missing; tried again within 5 minutes"
        assert [(event.type, event.reason) for event in cluster.events] == [("Warning", "InvalidCheckpoint")]

    async def test_a_claim_that_is_filled_later_needs_no_further_step(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)
        await cluster.settle()
        cluster.finish_inspection("ernie", failed={"reason": "InvalidCheckpoint", "message": "config.json is missing"})
        outcome = await cluster.run(WENXIN_MODEL, "ernie")
        assert outcome.requeue_after == 10
        cluster.sleep(10)
        await cluster.settle()
        assert [name.rpartition("-")[2] for name in cluster.names(JOB)] == ["1", "2"], "the first keeps its words"
        cluster.finish_inspection("ernie")
        await cluster.settle()
        assert [name.rpartition("-")[2] for name in cluster.names(JOB)] == ["2"]
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["status"] == "True"
        assert cluster.names(DEPLOYMENT) == ["ernie"]

    async def test_while_it_is_tried_again_the_words_stay(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
        await cluster.settle()
        cluster.finish_inspection("shared", failed={"reason": "InvalidCheckpoint", "message": "no"})
        await cluster.settle()
        before = status_of(cluster, "shared", WENXIN_MODEL)
        cluster.sleep(10)
        await cluster.settle()
        assert status_of(cluster, "shared", WENXIN_MODEL) == before
        cluster.finish_inspection("shared", failed={"reason": "InvalidCheckpoint", "message": "no"})
        assert (await cluster.run(WENXIN_MODEL, "shared")).requeue_after == 20

    async def test_the_wait_grows_to_five_minutes(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
        waits = []
        for _ in range(7):
            await cluster.settle()
            cluster.finish_inspection("shared", failed="Traceback\nModuleNotFoundError: torch\n")
            waits.append((await cluster.run(WENXIN_MODEL, "shared")).requeue_after)
            cluster.sleep(waits[-1])
        assert waits == [10, 20, 40, 80, 160, 300, 300]
        assert cluster.condition(WENXIN_MODEL, "shared", "Ready")["message"] == (
            "the container ended with exit code 3: ModuleNotFoundError: torch; tried again within 5 minutes; "
            "see `kubectl logs` of the Job's pod"
        )

    async def test_the_verdict_outlives_its_job(self, cluster: FakeCluster) -> None:
        (job,) = cluster.names(JOB)
        cluster.remove(JOB, job)
        assert await cluster.settle() == []

    async def test_a_claim_of_the_same_name_is_inspected_anew(self, cluster: FakeCluster) -> None:
        cluster.remove("PersistentVolumeClaim", "weights")
        await cluster.settle()
        assert cluster.condition(WENXIN_MODEL, "ernie", "Ready")["reason"] == "ClaimNotFound"
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 1, "running pods are left alone"
        claim(cluster)
        await cluster.settle()
        cluster.finish_inspection("ernie", {**INSPECTED, "digest": "sha256:4567"})
        await cluster.settle()
        assert status_of(cluster)["model"]["digest"] == "sha256:4567"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["reason"] == "RollingOut"

    async def test_new_weights_are_rolled_out_once_they_are_verified(self, cluster: FakeCluster) -> None:
        set_spec(cluster, model={"source": "pvc://weights/tuned"}, replicas=2)
        await cluster.settle()
        live = cluster.objects[DEPLOYMENT, "ernie"]
        assert live["spec"]["replicas"] == 2, "the count does not wait"
        assert live["spec"]["template"]["spec"]["containers"][0]["args"][1] == "/models/weights/ernie"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "WaitingForModel"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["status"] == "False"
        cluster.finish_inspection("ernie", {**INSPECTED, "digest": "sha256:4567"})
        await cluster.settle()
        live = cluster.objects[DEPLOYMENT, "ernie"]
        assert live["spec"]["template"]["spec"]["containers"][0]["args"][1] == "/models/weights/tuned"

    async def test_weights_that_turn_out_bad_leave_the_old_ones_serving(self, cluster: FakeCluster) -> None:
        set_spec(cluster, model={"source": "pvc://weights/broken"})
        await cluster.settle()
        cluster.finish_inspection("ernie", failed={"reason": "InvalidCheckpoint", "message": "truncated"})
        await cluster.settle()
        live = cluster.objects[DEPLOYMENT, "ernie"]
        assert live["spec"]["template"]["spec"]["containers"][0]["args"][1] == "/models/weights/ernie"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["reason"] == "InvalidCheckpoint"
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Available")["status"] == "True"

    async def test_a_shared_model_that_is_deleted_leaves_the_pods(self) -> None:
        cluster = await serving_a_shared_model()
        cluster.remove(WENXIN_MODEL, "shared")
        await cluster.settle()
        assert cluster.names(DEPLOYMENT) == ["ernie"]
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["reason"] == "ModelNotFound"

    async def test_a_shared_model_with_another_source_rolls_out_when_verified(self) -> None:
        cluster = await serving_a_shared_model()
        cluster.run_pods("ernie")
        cluster.edit(WENXIN_MODEL, "shared", lambda thing: thing["spec"].update(source="pvc://weights/tuned"))
        await cluster.settle()
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "WaitingForModel"
        cluster.finish_inspection("shared", {**INSPECTED, "digest": "sha256:4567"})
        await cluster.settle()
        live = cluster.objects[DEPLOYMENT, "ernie"]
        assert live["spec"]["template"]["spec"]["containers"][0]["args"][1] == "/models/weights/tuned"

    async def test_a_job_that_waits_for_a_bad_image_is_replaced_with_the_operators_new_one(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
        await cluster.settle()
        before = cluster.names(JOB)
        cluster.settings = Settings(runtime_image="registry.example/wenxin/runtime:2")
        await cluster.settle()
        assert len(cluster.names(JOB)) == 1
        assert cluster.names(JOB) != before

    async def test_a_malformed_source_is_not_accepted(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc:/weights"})
        await cluster.settle()
        assert cluster.conditions(WENXIN_MODEL, "shared") == {"Accepted": "False", "Ready": "False"}
        assert cluster.condition(WENXIN_MODEL, "shared", "Accepted")["message"].startswith("spec.source: write pvc://")
