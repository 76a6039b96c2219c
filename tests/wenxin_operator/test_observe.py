"""What a pass sees, and whom a change concerns."""

from typing import Any

import pytest

from tests.contract.inspected import INSPECTED
from tests.wenxin_operator.fake_cluster import NAMESPACE, FakeCluster, claim
from wenxin_operator import observe
from wenxin_operator.errors import SpecError
from wenxin_operator.names import (
    CONTROLLER_REVISION,
    ENDPOINT_SLICE,
    JOB,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SERVICE,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Key,
    Raw,
)

CPU = {"model": {"source": "pvc://weights/ernie"}, "accelerator": {"resource": "none"}}
ERNIE = Key(WENXIN_DEPLOYMENT, NAMESPACE, "ernie")
SHARED = Key(WENXIN_MODEL, NAMESPACE, "shared")


@pytest.fixture
async def cluster() -> FakeCluster:
    """One model `shared`, verified; deployment `ernie` serves its own, `user` the shared one."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
    cluster.create(WENXIN_DEPLOYMENT, "ernie", CPU)
    cluster.create(WENXIN_DEPLOYMENT, "user", {**CPU, "model": {"ref": "shared"}})
    await cluster.settle()
    for model in ("shared", "ernie"):
        cluster.finish_inspection(model)
    await cluster.settle()
    cluster.run_pods("ernie")
    return cluster


def seen(cluster: FakeCluster, key: Key = ERNIE) -> observe.DeploymentSnapshot:
    snapshot = observe.deployment(key, cluster)
    assert snapshot is not None
    return snapshot


def seen_model(cluster: FakeCluster) -> observe.ModelSnapshot:
    snapshot = observe.model(SHARED, cluster)
    assert snapshot is not None
    return snapshot


class TestConcerned:
    @pytest.mark.parametrize("kind", [SERVICE, ENDPOINT_SLICE, POD, CONTROLLER_REVISION])
    def test_a_child_concerns_its_owner(self, cluster: FakeCluster, kind: str) -> None:
        child = cluster.children(kind, NAMESPACE, "serving.wenxin.io/deployment", "ernie")[0]
        assert observe.concerned(kind, child, cluster) == {ERNIE}

    def test_an_inspect_job_concerns_its_model(self, cluster: FakeCluster) -> None:
        job = cluster.children(JOB, NAMESPACE, "serving.wenxin.io/model", "shared")[0]
        assert observe.concerned(JOB, job, cluster) == {SHARED}

    def test_a_model_concerns_itself_and_all_that_serve_it(self, cluster: FakeCluster) -> None:
        model = cluster.objects[WENXIN_MODEL, "shared"]
        assert observe.concerned(WENXIN_MODEL, model, cluster) == {SHARED, Key(WENXIN_DEPLOYMENT, NAMESPACE, "user")}
        own = cluster.objects[WENXIN_MODEL, "ernie"]
        assert observe.concerned(WENXIN_MODEL, own, cluster) == {ERNIE, Key(WENXIN_MODEL, NAMESPACE, "ernie")}

    def test_a_claim_concerns_the_models_that_lie_on_it(self, cluster: FakeCluster) -> None:
        cluster.create(WENXIN_MODEL, "elsewhere", {"source": "pvc://other/x"})
        thing = cluster.objects[PERSISTENT_VOLUME_CLAIM, "weights"]
        concerned = observe.concerned(PERSISTENT_VOLUME_CLAIM, thing, cluster)
        assert concerned == {SHARED, Key(WENXIN_MODEL, NAMESPACE, "ernie")}

    def test_what_belongs_to_nobody_concerns_nobody(self, cluster: FakeCluster) -> None:
        assert observe.concerned(SERVICE, cluster.create(SERVICE, "other", {}), cluster) == frozenset()

    @pytest.mark.parametrize("spec", [{}, {"model": None}, {"model": "x"}, {"source": 7}])
    def test_a_malformed_resource_disturbs_no_other(self, cluster: FakeCluster, spec: Raw) -> None:
        cluster.create(WENXIN_DEPLOYMENT, "broken", spec)
        cluster.create(WENXIN_MODEL, "broken", spec)
        assert SHARED in observe.concerned(WENXIN_MODEL, cluster.objects[WENXIN_MODEL, "shared"], cluster)
        thing = cluster.objects[PERSISTENT_VOLUME_CLAIM, "weights"]
        assert SHARED in observe.concerned(PERSISTENT_VOLUME_CLAIM, thing, cluster)


class TestDeployment:
    def test_what_is_gone_is_not_seen(self, cluster: FakeCluster) -> None:
        assert observe.deployment(ERNIE._replace(name="nobody"), cluster) is None
        assert observe.model(SHARED._replace(name="nobody"), cluster) is None

    def test_the_pods_in_the_slices_serve(self, cluster: FakeCluster) -> None:
        assert seen(cluster).serving == {"ernie-0"}

    def test_an_endpoint_that_says_nothing_of_its_readiness_is_ready(self, cluster: FakeCluster) -> None:
        def forget(thing: Raw) -> None:
            thing["endpoints"] = [
                {"targetRef": {"name": "a"}},
                {"conditions": {"ready": False}, "targetRef": {"name": "b"}},
            ]

        cluster.edit(ENDPOINT_SLICE, "ernie-slice", forget)
        assert seen(cluster).serving == {"a"}

    def test_a_slice_without_endpoints_is_empty(self, cluster: FakeCluster) -> None:
        cluster.edit(ENDPOINT_SLICE, "ernie-slice", lambda thing: thing.update(endpoints=None))
        assert seen(cluster).serving == frozenset()

    def test_the_newest_revision_is_the_last_accepted_spec(self, cluster: FakeCluster) -> None:
        (name,) = [name for name in cluster.names(CONTROLLER_REVISION) if name.startswith("ernie")]
        newest = {**cluster.objects[CONTROLLER_REVISION, name], "revision": 7}
        newest["metadata"] = {**newest["metadata"], "name": "ernie-newest"}
        newest["data"] = {**newest["data"], "spec": {**newest["data"]["spec"], "replicas": 4}}
        cluster._store(newest)
        snapshot = seen(cluster)
        assert snapshot.target_revision == 7
        assert snapshot.target is not None
        assert snapshot.target.spec.replicas == 4

    @pytest.mark.parametrize("data", [None, {}, {"spec": {}}, {"spec": {"new": 1}, "model": {"facts": {}}}, "x"])
    def test_a_revision_that_this_operator_can_not_read_is_none(self, cluster: FakeCluster, data: Any) -> None:
        (name,) = [name for name in cluster.names(CONTROLLER_REVISION) if name.startswith("ernie")]
        cluster.edit(CONTROLLER_REVISION, name, lambda thing: thing.update(data=data))
        assert seen(cluster).target is None

    def test_a_spec_that_is_no_spec_is_an_error_as_a_value(self, cluster: FakeCluster) -> None:
        cluster.edit(WENXIN_DEPLOYMENT, "ernie", lambda thing: thing["spec"].update(dtype="int4"))
        assert isinstance(seen(cluster).spec, SpecError)

    def test_a_model_whose_status_is_out_of_date_is_not_verified(self, cluster: FakeCluster) -> None:
        cluster.edit(WENXIN_MODEL, "ernie", lambda thing: thing["spec"].update(source="pvc://weights/other"))
        model = seen(cluster).model
        assert model is not None
        assert model.verified is None
        assert model.problem is not None
        assert model.problem.reason == "Inspecting"

    def test_a_model_that_is_going_is_gone(self, cluster: FakeCluster) -> None:
        cluster.edit(WENXIN_MODEL, "ernie", lambda thing: thing["metadata"].update(deletionTimestamp="now"))
        assert seen(cluster).model is None


class TestModel:
    def test_a_job_that_ended_tells_what_it_found(self, cluster: FakeCluster) -> None:
        (job,) = seen_model(cluster).jobs
        assert (job.attempt, job.result, job.problem) == (1, INSPECTED, None)
        assert job.finished == cluster.now

    @pytest.mark.parametrize("failed", [None, {"reason": "InvalidCheckpoint", "message": "no"}])
    def test_a_job_has_ended_when_its_pods_words_have_arrived(self, cluster: FakeCluster, failed: Raw | None) -> None:
        cluster.finish_inspection("shared", failed=failed)
        (pod,) = [name for name in cluster.names(POD) if name.startswith("shared-inspect")]
        cluster.edit(POD, pod, lambda thing: thing.update(status={"phase": "Running"}))
        (job,) = seen_model(cluster).jobs
        assert (job.finished, job.result, job.problem) == (None, None, None)

    def test_a_pod_that_ended_before_its_job_is_no_problem(self, cluster: FakeCluster) -> None:
        (name,) = [name for name in cluster.names(JOB) if name.startswith("shared")]
        cluster.edit(JOB, name, lambda thing: thing.update(status={}))
        (job,) = seen_model(cluster).jobs
        assert (job.finished, job.result, job.problem) == (None, None, None)

    def test_a_job_that_can_not_start_says_why(self, cluster: FakeCluster) -> None:
        (name,) = [name for name in cluster.names(JOB) if name.startswith("shared")]
        cluster.edit(JOB, name, lambda thing: thing.update(status={}))
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "unbound claim"}
        status = {"phase": "Pending", "conditions": [scheduled]}
        cluster.edit(POD, f"{name}-x", lambda thing: thing.update(status=status))
        (job,) = seen_model(cluster).jobs
        assert job.problem is not None
        assert job.problem.reason == "Unschedulable"

    @pytest.mark.parametrize("words", ["", "done", "{}", '{"digest": 7}'])
    def test_a_success_without_a_result_is_told(self, cluster: FakeCluster, words: str) -> None:
        (name,) = [name for name in cluster.names(JOB) if name.startswith("shared")]

        def forget(thing: Raw) -> None:
            thing["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = words

        cluster.edit(POD, f"{name}-x", forget)
        (job,) = seen_model(cluster).jobs
        assert job.result is None
        assert job.problem is not None
        assert job.problem.reason == "ResultLost"

    def test_an_evicted_pod_says_so(self, cluster: FakeCluster) -> None:
        cluster.finish_inspection("shared", failed="x")
        (name,) = [name for name in cluster.names(JOB) if name.startswith("shared")]
        status = {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}
        cluster.edit(POD, f"{name}-x", lambda thing: thing.update(status=status))
        (job,) = seen_model(cluster).jobs
        assert job.problem is not None
        assert (job.problem.reason, job.problem.message) == ("Evicted", "the node was low on memory")

    def test_a_failed_job_without_a_pod_still_has_words(self, cluster: FakeCluster) -> None:
        cluster.finish_inspection("shared", failed="x")
        (name,) = [name for name in cluster.names(JOB) if name.startswith("shared")]
        cluster.remove(POD, f"{name}-x")
        (job,) = seen_model(cluster).jobs
        assert job.problem is not None
        assert job.problem.message == "the inspection did not finish"

    def test_a_status_that_is_not_ours_counts_for_nothing(self, cluster: FakeCluster) -> None:
        cluster.edit(WENXIN_MODEL, "shared", lambda thing: thing.update(status={"phase": "Ready", "digest": 7}))
        assert seen_model(cluster).status.digest is None
