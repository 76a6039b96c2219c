"""Single decisions of the plan; golden/ shows whole ones."""

from datetime import timedelta
from typing import Any

import pytest

from tests.wenxin_operator.fake_cluster import FACTS, Settings
from wenxin_operator import names
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.changes import sealed
from wenxin_operator.names import WENXIN_DEPLOYMENT, Key
from wenxin_operator.plan import network, service, workload
from wenxin_operator.plan.acceptance import unsuitable
from wenxin_operator.plan.manifest import Owner
from wenxin_operator.plan.model_job import wait_after
from wenxin_operator.target import Target, VerifiedModel

OWNER = Owner(Key(WENXIN_DEPLOYMENT, "team", "ernie"), "uid")


def target(facts: dict[str, Any] | None = None, digest: str = "sha256:1", **fields: Any) -> Target:
    spec = DeploymentSpec.model_validate({"model": {"ref": "ernie"}} | fields)
    weights = VerifiedModel("ernie", "pvc://weights/ernie", digest, ModelFacts.model_validate(FACTS | (facts or {})))
    return Target(spec, weights)


def revision(of: Target, flags: str = "ernie-flags-1", settings: Settings | None = None) -> str:
    return workload.revision_of(workload.pod_template(OWNER, of, flags, settings or Settings()))


def namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def egress(**fields: Any) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = network.serving_policy(OWNER, target(**fields).spec, Settings(), together=False)[
        "spec"
    ]["egress"]
    return rules


CPU = {"accelerator": {"resource": "none"}}


class TestResources:
    def test_a_cpu_pod_asks_for_what_its_weights_need(self) -> None:
        facts = {"parameters": 1000 * 2**20}  # 4000 MiB as float32
        assert workload.resources(target(facts, **CPU)) == {
            "requests": {"cpu": "500m", "memory": "5024Mi"},
            "limits": {"memory": "12096Mi"},
        }

    def test_half_the_width_is_half_the_weights_but_never_less_than_the_file(self) -> None:
        facts = {"parameters": 1000 * 2**20, "bytes": 0}
        narrow = workload.resources(target(facts, dtype="bfloat16", **CPU))["requests"]["memory"]
        assert narrow == "3024Mi"
        stored = workload.resources(target(facts | {"bytes": 4000 * 2**20}, dtype="bfloat16", **CPU))
        assert stored["requests"]["memory"] == "5024Mi"

    def test_weights_of_one_byte_are_as_large_as_their_file_while_they_load(self) -> None:
        facts = {"parameters": 1000 * 2**20, "bytes": 2000 * 2**20}
        assert workload.resources(target(facts, quantization="int8", **CPU))["requests"]["memory"] == "3024Mi"

    def test_a_gpu_pod_asks_for_one_gpu(self) -> None:
        assert workload.resources(target()) == {
            "requests": {"cpu": "2", "memory": "8Gi"},
            "limits": {"nvidia.com/gpu": "1"},
        }

    def test_what_the_user_says_of_memory_replaces_all_that_we_would_say_of_it(self) -> None:
        given = target(pod={"resources": {"limits": {"memory": "3Gi"}}}, **CPU)
        assert workload.resources(given) == {"requests": {"cpu": "500m"}, "limits": {"memory": "3Gi"}}

    def test_requests_and_limits_of_the_user_are_both_kept(self) -> None:
        resources = {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"cpu": 4, "memory": "2Gi"}}
        assert workload.resources(target(pod={"resources": resources}, **CPU)) == {
            "requests": {"cpu": "2", "memory": "1Gi"},
            "limits": {"cpu": "4", "memory": "2Gi"},
        }


class TestRevision:
    def test_the_count_and_the_operators_own_settings_roll_no_pod(self) -> None:
        assert revision(target(replicas=1)) == revision(target(replicas=5))
        assert revision(target()) == revision(target(), settings=Settings(lease_namespace="elsewhere"))

    @pytest.mark.parametrize(
        "other",
        [
            target(digest="sha256:2"),
            target(image="other:1"),
            target(drain={"delay": "6s"}),
            target(pod={"annotations": {"a": "b"}}),
            target(**CPU),
        ],
    )
    def test_what_changes_the_pods_is_another_revision(self, other: Target) -> None:
        assert revision(other) != revision(target())

    def test_other_flags_are_another_revision(self) -> None:
        assert revision(target(), "ernie-flags-1") != revision(target(), "ernie-flags-2")

    def test_user_labels_can_not_take_the_place_of_ours(self) -> None:
        spec = target().spec.model_copy(
            update={"pod": target().spec.pod.model_copy(update={"labels": {names.LABEL_DEPLOYMENT: "other"}})}
        )
        template = workload.pod_template(OWNER, Target(spec, target().model), "f", Settings())
        assert template["metadata"]["labels"][names.LABEL_DEPLOYMENT] == "ernie"


class TestNetwork:
    @pytest.mark.parametrize(
        ("endpoint", "rule"),
        [
            ("http://collector:4318", ({"podSelector": {}}, 4318)),
            ("http://collector.obs.svc:4318/v1/traces", (namespace("obs"), 4318)),
            ("https://collector.obs.svc.cluster.local", (namespace("obs"), 443)),
            ("http://10.1.2.3", ({"ipBlock": {"cidr": "10.1.2.3/32"}}, 80)),
        ],
    )
    def test_pods_may_reach_their_collector_and_no_more(self, endpoint: str, rule: tuple[Any, int]) -> None:
        peer, port = rule
        assert egress(monitoring={"otlpEndpoint": endpoint})[1:] == [
            {"to": [peer], "ports": [{"port": port, "protocol": "TCP"}]}
        ]

    @pytest.mark.parametrize("host", ["traces.example.com", "collector.obs"])
    def test_a_name_that_may_lie_outside_the_cluster_opens_its_port_to_everywhere(self, host: str) -> None:
        assert egress(monitoring={"otlpEndpoint": f"https://{host}:4318"})[1:] == [
            {"ports": [{"port": 4318, "protocol": "TCP"}]}
        ]

    def test_pods_may_reach_the_port_of_their_answer_cache_wherever_it_is(self) -> None:
        cache = {"redis": {"urlSecretRef": {"name": "redis"}, "ports": [6380, 26380]}}
        both = [{"port": port, "protocol": "TCP"} for port in (6380, 26380)]
        assert egress(answerCache=cache)[1:] == [{"ports": both}]
        assert egress(answerCache={"redis": {"urlSecretRef": {"name": "redis"}}})[1:] == [
            {"ports": [{"port": 6379, "protocol": "TCP"}]}
        ]

    def test_without_a_collector_only_names_are_looked_up(self) -> None:
        (dns,) = egress()
        assert {port["port"] for port in dns["ports"]} == {53}


class TestGrpc:
    def ports(self, **fields: Any) -> dict[str, list[tuple[Any, ...]]]:
        """Every place that names ports."""
        of = target(**fields)
        pod = workload.pod_template(OWNER, of, "flags", Settings())["spec"]["containers"][0]
        made = service.service(OWNER, {}, grpc=of.spec.grpc)["spec"]["ports"]
        policy = network.serving_policy(OWNER, of.spec, Settings(), together=False)["spec"]["ingress"][0]["ports"]
        return {
            "pod": [(port["name"], port["containerPort"]) for port in pod["ports"]],
            "service": [(port["name"], port["port"], port["targetPort"], port["appProtocol"]) for port in made],
            "policy": [(port["port"],) for port in policy],
        }

    def test_there_is_no_such_port_unasked(self) -> None:
        http = {"pod": [("http", 8000)], "service": [("http", 8000, "http", "http")], "policy": [(8000,)]}
        assert self.ports() == http

    def test_the_port_is_opened_from_the_pod_to_the_policy(self) -> None:
        found = self.ports(grpc=True)
        assert found["pod"][1:] == [("grpc", 8001)]
        assert found["service"][1:] == [("grpc", 8001, "grpc", "kubernetes.io/h2c")]
        assert found["policy"][1:] == [(8001,)]


class TestRollout:
    @pytest.mark.parametrize(
        ("drain", "grace"),
        [({}, 320), ({"delay": "0s", "timeout": "0s"}, 15), ({"delay": "1500ms", "timeout": "10s"}, 27)],
    )
    def test_the_grace_period_leaves_room_after_delay_and_drain(self, drain: dict[str, str], grace: int) -> None:
        assert workload.grace_period(target(drain=drain).spec) == grace


class TestFit:
    def test_a_length_that_the_model_was_made_for_is_fine(self) -> None:
        assert unsuitable(target(maxModelLen=131_072).spec, target().model) is None

    def test_a_model_that_does_not_say_is_believed(self) -> None:
        assert unsuitable(target(maxModelLen=999_999).spec, target({"contextLength": 0}).model) is None


class TestNames:
    @pytest.mark.parametrize("model", ["ernie", "ernie-4.5-0.3b", "a" * 63, "a." * 31 + "a"])
    def test_a_jobs_name_is_a_label_of_dns(self, model: str) -> None:
        name = names.inspect_job(model, ["x"], 12345)
        assert len(name) <= 63
        assert "." not in name
        assert name.endswith("-12345")

    def test_models_whose_names_differ_in_dots_have_jobs_of_their_own(self) -> None:
        assert names.inspect_job("a.b", [], 1) != names.inspect_job("a-b", [], 1)

    def test_a_hash_does_not_depend_on_the_order_of_keys(self) -> None:
        assert names.content_hash({"a": 1, "b": 2}) == names.content_hash({"b": 2, "a": 1})

    def test_every_kind_has_a_path_and_children_are_selected_by_one_label(self) -> None:
        assert names.path_of(names.SERVICE, "team", "ernie") == "/api/v1/namespaces/team/services/ernie"
        assert names.path_of(names.JOB) == "/apis/batch/v1/jobs"
        path = names.path_of(WENXIN_DEPLOYMENT, "team", "ernie", "status")
        assert path == "/apis/serving.wenxin.io/v1alpha1/namespaces/team/wenxindeployments/ernie/status"
        assert names.selector_of(names.POD) == "app.kubernetes.io/managed-by=wenxin-operator"
        assert names.selector_of(names.PERSISTENT_VOLUME_CLAIM) == ""


def test_a_seal_changes_with_the_manifest_and_keeps_its_annotations() -> None:
    manifest = {"kind": "X", "metadata": {"name": "x", "annotations": {"a": "b"}}, "spec": {"n": 1}}
    first, second = sealed(manifest), sealed({**manifest, "spec": {"n": 2}})
    assert first["metadata"]["annotations"]["a"] == "b"
    assert (
        first["metadata"]["annotations"][names.ANNOTATION_APPLIED]
        != (second["metadata"]["annotations"][names.ANNOTATION_APPLIED])
    )
    assert manifest["metadata"]["annotations"] == {"a": "b"}


def test_a_target_survives_its_controller_revision() -> None:
    kept = target(maxModelLen=4096, pod={"affinity": {"x": 1}}, **CPU)
    assert Target.from_data(kept.data()) == kept


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 10), (2, 20), (5, 160), (6, 300), (5000, 300)])
def test_the_wait_doubles_up_to_five_minutes(attempt: int, seconds: float) -> None:
    assert wait_after(attempt) == timedelta(seconds=seconds)
