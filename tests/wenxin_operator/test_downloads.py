"""Weights that are fetched: attempts, progress, what goes wrong, what changes, and who serves them."""

from typing import Any

import pytest

from tests.contract.inspected import INSPECTED
from tests.wenxin_operator import downloads
from tests.wenxin_operator.downloads import HALF, SMALL, asked_for, mounted, serving
from tests.wenxin_operator.fake_cluster import FakeCluster, Settings, claim
from tests.wenxin_operator.passes import set_spec, status_of
from wenxin_operator.errors import Invalid
from wenxin_operator.names import (
    CONFIG_MAP,
    JOB,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Raw,
)

HUB = {"source": "hf://org/name", "storage": {"size": "5Gi"}}


def ready(cluster: FakeCluster, name: str = "ernie") -> Raw:
    return cluster.condition(WENXIN_MODEL, name, "Ready")


def model(cluster: FakeCluster, name: str = "ernie") -> Raw:
    return status_of(cluster, name, WENXIN_MODEL)


def change(cluster: FakeCluster, **fields: Any) -> None:
    cluster.edit(WENXIN_MODEL, "ernie", lambda thing: thing.update(spec={**thing["spec"], **fields}))


def job(cluster: FakeCluster, name: str = "ernie") -> Raw:
    return cluster.objects[JOB, downloads.newest(cluster, name)]


def pod_of(one: Raw) -> Raw:
    return one["spec"]["template"]["spec"]


def environment(one: Raw) -> dict[str, Any]:
    found = pod_of(one)["containers"][0]["env"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in found}


class TestFirst:
    async def test_the_claim_is_there_before_the_job(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_MODEL, "ernie", SMALL)
        await cluster.run(WENXIN_MODEL, "ernie")
        assert cluster.names(PERSISTENT_VOLUME_CLAIM) == ["ernie-weights"]
        assert cluster.names(JOB) == []
        await cluster.settle()
        assert len(cluster.names(JOB)) == 1
        assert ready(cluster)["message"] == "a Job downloads hf://baidu/ERNIE-4.5-0.3B-PT"

    async def test_a_preset_knows_how_large_its_claim_must_be(self) -> None:
        cluster = await asked_for(SMALL)
        spec = cluster.objects[PERSISTENT_VOLUME_CLAIM, "ernie-weights"]["spec"]
        assert spec == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}}

    async def test_what_is_fetched_is_known_with_its_digest_its_place_and_its_commit(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.finish(cluster, "ernie")
        await cluster.settle()
        status = model(cluster)
        assert status["digest"] == INSPECTED["digest"]
        assert status["revision"] == "0123abcd"
        assert status["origin"] == "hf://baidu/ERNIE-4.5-0.3B-PT"
        assert status["location"].startswith("pvc://ernie-weights/ERNIE-4.5-0.3B-PT-")
        assert (status["progress"], status["size"]) == ("100 %", "722 MB")
        assert ready(cluster)["reason"] == "Verified"
        assert "one node at a time" in ready(cluster)["message"]

    async def test_a_claim_that_many_nodes_may_mount_needs_no_word_of_warning(self) -> None:
        cluster = await asked_for({**SMALL, "storage": {"accessModes": ["ReadWriteMany"]}})
        downloads.finish(cluster, "ernie")
        await cluster.settle()
        assert "one node" not in ready(cluster)["message"]

    async def test_at_rest_nothing_is_written(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.finish(cluster, "ernie")
        await cluster.settle()
        assert (await cluster.run(WENXIN_MODEL, "ernie")).requeue_after is None
        assert await cluster.settle() == []

    async def test_the_verdict_outlives_its_job(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.finish(cluster, "ernie")
        await cluster.settle()
        before = model(cluster)
        cluster.remove(JOB, downloads.newest(cluster, "ernie"))
        assert await cluster.settle() == []
        assert model(cluster) == before

    async def test_a_claim_that_was_deleted_is_made_and_filled_anew(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.finish(cluster, "ernie")
        await cluster.settle()
        cluster.remove(PERSISTENT_VOLUME_CLAIM, "ernie-weights")
        await cluster.settle()
        assert cluster.names(PERSISTENT_VOLUME_CLAIM) == ["ernie-weights"]
        assert ready(cluster)["reason"] == "Downloading"


class TestProgress:
    async def test_a_download_is_asked_every_ten_seconds_how_far_it_is(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.start(cluster, "ernie", HALF)
        outcome = await cluster.run(WENXIN_MODEL, "ernie")
        assert outcome.requeue_after == 10
        status = model(cluster)
        assert (status["progress"], status["size"]) == ("50 %", "1 GB")
        assert status["download"] == {
            "doneBytes": 500_000_000,
            "totalBytes": 1_000_000_000,
            "files": 2,
            "totalFiles": 5,
            "bytesPerSecond": 10_000_000,
            "secondsLeft": 50,
        }
        assert ready(cluster)["reason"] == "Downloading"

    async def test_the_conditions_stay_as_they_are_while_the_numbers_change(self) -> None:
        cluster = await asked_for(SMALL)
        pod = downloads.start(cluster, "ernie", HALF)
        await cluster.settle()
        before = model(cluster)["conditions"]
        cluster.says[pod] = HALF | {"done": 600_000_000}
        assert await cluster.settle() == ["status WenxinModel ernie"]
        assert model(cluster)["conditions"] == before
        assert model(cluster)["progress"] == "60 %"

    @pytest.mark.parametrize("said", [None, "busy", {}, HALF | {"done": "much"}, HALF | {"total": 0}])
    async def test_a_download_that_says_nothing_new_is_where_it_was(self, said: Any) -> None:
        cluster = await asked_for(SMALL)
        pod = downloads.start(cluster, "ernie", HALF)
        await cluster.settle()
        cluster.says[pod] = said
        await cluster.settle()
        assert model(cluster)["progress"] == "50 %"
        assert model(cluster)["download"]["doneBytes"] == 500_000_000

    async def test_it_is_not_whole_before_it_is_verified(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.start(cluster, "ernie", HALF | {"phase": "inspecting", "done": 1_000_000_000})
        await cluster.settle()
        assert model(cluster)["progress"] == "99 %"

    async def test_what_was_fetched_is_still_there_after_a_failure(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.start(cluster, "ernie", HALF)
        await cluster.settle()
        downloads.finish(cluster, "ernie", failed={"reason": "DownloadFailed", "message": "the hub is away"})
        await cluster.settle()
        assert model(cluster)["progress"] == "50 %"
        assert "secondsLeft" not in model(cluster)["download"]

    async def test_another_source_begins_at_nothing(self) -> None:
        cluster = await asked_for(HUB)
        downloads.start(cluster, "ernie", HALF)
        await cluster.settle()
        change(cluster, source="hf://org/other")
        await cluster.settle()
        assert model(cluster)["progress"] == "0 %"
        assert "download" not in model(cluster)

    async def test_weights_on_a_claim_have_no_progress(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_MODEL, "ernie", {"source": "pvc://weights/ernie"})
        await cluster.settle()
        cluster.finish_inspection("ernie")
        await cluster.settle()
        assert not {"progress", "download"} & model(cluster).keys()
        assert model(cluster)["location"] == "pvc://weights/ernie"


class TestAttempts:
    async def test_a_failed_attempt_is_repeated_on_the_same_claim_in_the_same_folder(self) -> None:
        cluster = await asked_for(SMALL)
        first = pod_of(job(cluster))
        downloads.finish(cluster, "ernie", failed={"reason": "DownloadInterrupted", "message": "it was stopped"})
        assert (await cluster.run(WENXIN_MODEL, "ernie")).requeue_after == 10
        assert ready(cluster)["message"] == "it was stopped; tried again within 5 minutes"
        cluster.sleep(10)
        await cluster.settle()
        assert downloads.newest(cluster, "ernie").endswith("-2")
        assert pod_of(job(cluster)) == first

    @pytest.mark.parametrize(
        ("reason", "step"),
        [
            ("Unauthorized", "spec.credentialsSecretRef"),
            ("NotEnoughSpace", "spec.storage.size"),
            ("ChecksumMismatch", "spec.checksums"),
            ("NotFound", "spec.source"),
        ],
    )
    async def test_what_went_wrong_is_told_with_what_to_do_about_it(self, reason: str, step: str) -> None:
        cluster = await asked_for(SMALL)
        downloads.finish(cluster, "ernie", failed={"reason": reason, "message": "words of the runtime"})
        await cluster.settle()
        assert ready(cluster)["reason"] == reason
        assert ready(cluster)["message"].startswith("words of the runtime; ")
        assert step in ready(cluster)["message"]
        assert [(event.type, event.reason) for event in cluster.events] == [("Warning", reason)]

    async def test_an_attempt_that_gets_on_is_no_trouble_any_more(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.finish(cluster, "ernie", failed={"reason": "DownloadFailed", "message": "the hub is away"})
        await cluster.settle()
        cluster.sleep(10)
        await cluster.settle()
        pod = downloads.start(cluster, "ernie")
        await cluster.settle()
        assert ready(cluster)["reason"] == "DownloadFailed", "it may fail as the last one did"
        cluster.says[pod] = HALF
        await cluster.settle()
        assert ready(cluster)["reason"] == "Downloading"

    async def test_a_new_image_leaves_a_download_that_runs_alone(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.start(cluster, "ernie", HALF)
        await cluster.settle()
        before = cluster.names(JOB)
        cluster.settings = Settings(runtime_image="registry.example/wenxin/runtime:2")
        assert await cluster.settle() == []
        assert cluster.names(JOB) == before

    async def test_a_job_that_waits_for_a_bad_image_is_replaced_with_the_operators_new_one(self) -> None:
        cluster = await asked_for(SMALL)
        before = cluster.names(JOB)
        cluster.settings = Settings(runtime_image="registry.example/wenxin/runtime:2")
        await cluster.settle()
        assert len(cluster.names(JOB)) == 1
        assert cluster.names(JOB) != before

    async def test_other_means_are_tried_at_once(self) -> None:
        cluster = await asked_for(SMALL)
        downloads.finish(cluster, "ernie", failed={"reason": "Unauthorized", "message": "no"})
        await cluster.settle()
        assert len(cluster.names(JOB)) == 1
        change(cluster, credentialsSecretRef={"name": "hub"})
        await cluster.settle()
        assert environment(job(cluster))["HF_TOKEN"] == {
            "secretKeyRef": {"name": "hub", "key": "HF_TOKEN", "optional": True}
        }

    async def test_two_never_write_at_the_same_time(self) -> None:
        cluster = await asked_for(SMALL)
        pod = downloads.start(cluster, "ernie", HALF)
        await cluster.settle()
        last = cluster.objects[POD, pod]
        change(cluster, mirror="https://mirror.example.com")
        await cluster.run(WENXIN_MODEL, "ernie")
        cluster._store(last)  # it takes its time to stop
        await cluster.settle()
        assert cluster.names(JOB) == []
        assert ready(cluster)["reason"] == "WaitingForPod"
        cluster.remove(POD, pod)
        await cluster.settle()
        assert "--mirror=https://mirror.example.com" in pod_of(job(cluster))["containers"][0]["args"]


class TestChanges:
    async def test_another_revision_is_fetched_beside_the_one_that_is_served(self) -> None:
        cluster = await serving()
        before = mounted(cluster)
        set_spec(cluster, model={**SMALL, "revision": "v2"})
        await cluster.settle()
        assert mounted(cluster) == before
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")["reason"] == "WaitingForModel"
        downloads.finish(cluster, "ernie", {**downloads.FETCHED, "digest": "sha256:4567"})
        await cluster.settle()
        assert mounted(cluster)[0] == before[0]
        assert mounted(cluster)[1] != before[1]

    async def test_the_claim_stays_while_old_pods_serve_from_it(self) -> None:
        cluster = await serving()
        claim(cluster)
        set_spec(cluster, model={"source": "pvc://weights/ernie"})
        await cluster.settle()
        assert "ernie-weights" in cluster.names(PERSISTENT_VOLUME_CLAIM)
        cluster.finish_inspection("ernie")
        await cluster.settle()
        assert mounted(cluster) == ("weights", "/models/weights/ernie")
        assert "ernie-weights" in cluster.names(PERSISTENT_VOLUME_CLAIM)

    async def test_what_nobody_may_change_of_a_claim_stays_and_its_size_only_grows(self) -> None:
        cluster = await asked_for({**SMALL, "storage": {"storageClassName": "fast", "size": "10Gi"}})
        change(cluster, storage={"storageClassName": "slow", "accessModes": ["ReadWriteMany"], "size": "5Gi"})
        assert await cluster.settle() == ["status WenxinModel ernie"], "the generation that was looked at"
        change(cluster, storage={"size": "20Gi"})
        await cluster.settle()
        assert cluster.objects[PERSISTENT_VOLUME_CLAIM, "ernie-weights"]["spec"] == {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast",
            "resources": {"requests": {"storage": "20Gi"}},
        }

    async def test_a_claim_that_may_not_grow_says_so(self) -> None:
        cluster = await asked_for(SMALL)
        cluster.refuse = lambda verb, thing: (
            Invalid("only dynamically provisioned claims can be resized", status=422, reason="Invalid")
            if verb != "status" and thing["kind"] == PERSISTENT_VOLUME_CLAIM
            else None
        )
        change(cluster, storage={"size": "50Gi"})
        await cluster.run(WENXIN_MODEL, "ernie")
        assert "only dynamically provisioned claims" in ready(cluster)["message"]

    async def test_all_goes_with_the_model_but_not_a_claim_of_yours(self) -> None:
        cluster = FakeCluster()
        claim(cluster, "mine")
        cluster.create(
            WENXIN_MODEL, "ernie", {**SMALL, "storage": {"existingClaim": "mine"}, "checksums": {"a": "0" * 64}}
        )
        await cluster.settle()
        assert cluster.names(PERSISTENT_VOLUME_CLAIM) == ["mine"]
        cluster.remove(WENXIN_MODEL, "ernie")
        assert cluster.names(PERSISTENT_VOLUME_CLAIM) == ["mine"]
        assert not any(cluster.names(kind) for kind in (JOB, CONFIG_MAP, NETWORK_POLICY))

    async def test_a_claim_of_yours_that_is_not_there_is_named_with_the_field(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {"model": {**SMALL, "storage": {"existingClaim": "mine"}}})
        await cluster.settle()
        assert ready(cluster)["reason"] == "ClaimNotFound"
        assert ready(cluster)["message"].startswith("spec.storage.existingClaim: this namespace has no")
        told = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ModelReady")["message"]
        assert told.startswith("spec.model.storage.existingClaim: this namespace has no")
        claim(cluster, "mine")
        await cluster.settle()
        assert len(cluster.names(JOB)) == 1


class TestJob:
    async def test_the_proxy_and_the_authorities_of_the_spec_reach_the_command(self) -> None:
        given = {
            "proxy": "http://proxy.corp:3128",
            "noProxy": ".svc,10.0.0.0/8",
            "caConfigMapRef": {"name": "corp-ca"},
            "credentialsSecretRef": {"name": "hub"},
        }
        found = environment(job(await asked_for({**SMALL, **given})))
        assert found["HTTPS_PROXY"] == found["HTTP_PROXY"] == "http://proxy.corp:3128"
        assert found["NO_PROXY"] == ".svc,10.0.0.0/8"
        assert found["SSL_CERT_FILE"] == "/etc/wenxin/ca/ca.crt"
        assert found["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["optional"] is True

    async def test_without_credentials_it_has_none(self) -> None:
        assert environment(job(await asked_for(SMALL))).keys() == {"HOME"}

    async def test_it_goes_where_the_serving_pods_will(self) -> None:
        where = {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
        cluster = await asked_for({**SMALL, **where, "imagePullSecrets": [{"name": "registry"}]})
        pod = pod_of(job(cluster))
        assert pod["nodeSelector"] == {"pool": "gpu"}
        assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
        assert pod["imagePullSecrets"] == [{"name": "registry"}]

    @pytest.mark.parametrize(
        ("spec", "rules"),
        [
            (SMALL, [(None, 443)]),
            ({**SMALL, "mirror": "http://hub.models.svc:8080"}, [("models", 8080)]),
            ({**SMALL, "proxy": "http://proxy.corp.example:3128"}, [(None, 443), (None, 3128)]),
            ({"source": "https://files.example.com:8443/x/", "storage": {"size": 1}}, [(None, 8443)]),
            ({"source": "s3://bucket/x", "mirror": "http://minio.s3.svc:9000", "storage": {"size": 1}}, [("s3", 9000)]),
        ],
    )
    async def test_it_may_reach_its_source_and_no_more(self, spec: Raw, rules: list[tuple[str | None, int]]) -> None:
        cluster = await asked_for(spec)
        policy = cluster.objects[NETWORK_POLICY, "ernie-download"]["spec"]
        dns, *found = policy["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}
        assert found == [
            {
                **({"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": to}}}]} if to else {}),
                "ports": [{"port": port, "protocol": "TCP"}],
            }
            for to, port in rules
        ]
