"""The custom resources: what is accepted, what is refused, and how that is said."""

from typing import Any

import pytest

from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.fields import ClaimPath, claim_path, seconds
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.errors import SpecError

GOOD = {"model": {"source": "pvc://weights/ernie"}}


def spec(**fields: Any) -> DeploymentSpec:
    parsed = parse(DeploymentSpec, GOOD | fields)
    assert isinstance(parsed, DeploymentSpec), parsed
    return parsed


def refusal(**fields: Any) -> str:
    parsed = parse(DeploymentSpec, GOOD | fields)
    assert isinstance(parsed, SpecError), parsed
    return str(parsed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5s", 5), ("5m", 300), ("1h30m", 5400), ("500ms", 0.5), ("1.5s", 1.5), ("1m0.5s", 60.5), ("0s", 0)],
)
def test_a_go_style_duration_is_so_many_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "5d", "s", "1h 5m", "5s\n"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    assert "write a duration such as" in refusal(drain={"delay": text})


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("pvc://weights/ernie", ClaimPath("weights", "ernie")),
        ("pvc://weights/baidu/ERNIE-4.5-0.3B-PT", ClaimPath("weights", "baidu/ERNIE-4.5-0.3B-PT")),
        ("pvc://my.claim", ClaimPath("my.claim", "")),
    ],
)
def test_a_source_names_a_claim_and_a_folder(source: str, where: ClaimPath) -> None:
    assert isinstance(parse(ModelSpec, {"source": source}), ModelSpec)
    assert claim_path(source) == where


def test_a_claim_is_mounted_under_its_name() -> None:
    assert ClaimPath("weights", "a/b").model_dir == "/models/weights/a/b"
    assert ClaimPath("weights", "").model_dir == ClaimPath("weights", "").mount_path == "/models/weights"


@pytest.mark.parametrize(
    "source",
    ["", "weights/x", "hf://baidu/ernie", "pvc://", "pvc:///x", "pvc://Weights/x", "pvc://w/../x", "pvc://w/x/",
     "pvc://w//x", "pvc://w/.x", "pvc://w/a b", "pvc://w/x\n", "pvc://w/@x/" + "y" * 600],
)  # fmt: skip
def test_a_source_that_leads_nowhere_or_out_of_the_claim_is_refused(source: str) -> None:
    assert isinstance(parse(ModelSpec, {"source": source}), SpecError)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parallelism": {"tensor": 3}}, "spec.parallelism.tensor: must be 1, 2, 4, 8, 16, 32 or 64"),
        ({"parallelism": {"data": 6}}, "spec.parallelism.data: must be 1, 2, 4, 8, 16, 32 or 64"),
        ({"parallelism": {"nodes": 17}}, "spec.parallelism.nodes: Input should be less than or equal to 16"),
        ({"parallelism": {"tensor": 4, "nodes": 3}}, "parallelism.nodes must divide them"),
        ({"parallelism": {"tensor": 2, "nodes": 4}}, "parallelism.nodes must divide them"),
        ({"parallelism": {"redundantExperts": 2}}, "spec.parallelism: parallelism.redundantExperts needs"),
        ({"model": {}}, "spec.model: give exactly one of ref, source and preset"),
        ({"model": {"ref": "a", "source": "pvc://a/b"}}, "spec.model: give exactly one of"),
        ({"autoscaling": {}}, "spec.autoscaling.maxReplicas: Field required"),
        ({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "autoscaling.minReplicas must be at most"),
        ({"autoscaling": {"minReplicas": 0, "maxReplicas": 2}}, "spec.autoscaling.minReplicas: Input should be"),
        ({"autoscaling": {"maxReplicas": 2, "runningPercent": 95}}, "spec.autoscaling.runningPercent: Input should be"),
        (
            {"autoscaling": {"maxReplicas": 2, "behavior": {"scaleUp": {"policies": []}}}},
            "spec.autoscaling.behavior.scaleUp.policies: Tuple should have at least 1 item",
        ),
        ({"replicas": -1}, "spec.replicas: Input should be greater than or equal to 0"),
        ({"dtype": "int4"}, "spec.dtype: Input should be 'auto'"),
        ({"drain": {"timeout": "25h"}}, "spec.drain.timeout: must be at most 24h"),
        ({"accelerator": {"resource": "none", "products": ["A100"]}}, "spec.accelerator: accelerator.products chooses"),
        ({"engine": {"maxNumSeq": 1}}, "spec.engine.maxNumSeq: unknown field"),
        ({"pod": {"labels": {"serving.wenxin.io/x": "y"}}}, "spec.pod.labels: keys under serving.wenxin.io/"),
        ({"pod": {"resources": {"limits": {"memory": "lots"}}}}, "spec.pod.resources.limits.memory: write a quantity"),
        ({"pod": {"tolerations": [{"effect": "Never"}]}}, "spec.pod.tolerations[0].effect: "),
        ({"pod": {"affinity": {"nodeAffinity": []}}}, "spec.pod.affinity: nodeAffinity.required"),
        ({"pod": {"nodeSelector": {"a": "b" * 64}}}, "spec.pod.nodeSelector.a: "),
        ({"accelerator": {"products": ["A", "A"]}}, "spec.accelerator.products: name each product once"),
        ({"parallelism": {"tensor": "1"}}, "spec.parallelism.tensor: Input should be a valid integer"),
        ({"servedName": "a b"}, "spec.servedName: "),
        ({"image": "a b"}, "spec.image: "),
        ({"quantization": "int4"}, "spec.quantization: Input should be 'none' or 'int8'"),
        ({"engine": {"stallTimeout": "25h"}}, "spec.engine.stallTimeout: must be at most 24h"),
        ({"answerCache": {}}, "spec.answerCache.redis: Field required"),
        ({"answerCache": {"redis": {"urlSecretRef": {}}}}, "spec.answerCache.redis.urlSecretRef.name: Field required"),
        (
            {"answerCache": {"redis": {"urlSecretRef": {"name": "redis"}}, "ttl": "0s"}},
            "spec.answerCache.ttl: must be at least 1s",
        ),
        ({"monitoring": {"otlpEndpoint": "c:4318"}}, "spec.monitoring.otlpEndpoint: write a URL such as http://"),
        ({"monitoring": {"otlpEndpoint": "http://u:p@c"}}, "spec.monitoring.otlpEndpoint: write a URL such as http://"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


@pytest.mark.parametrize("port", [1, 80, 4318, 9999, 10000, 59999, 64999, 65499, 65529, 65535])
def test_a_collector_may_listen_on_any_port(port: int) -> None:
    assert spec(monitoring={"otlpEndpoint": f"http://c:{port}"})


@pytest.mark.parametrize("port", ["", "0", "080", "65536", "65540", "65600", "66000", "70000", "100000"])
def test_what_is_no_port_is_refused(port: str) -> None:
    assert "write a URL" in refusal(monitoring={"otlpEndpoint": f"http://c:{port}"})


def test_every_mistake_is_told_at_once() -> None:
    told = refusal(replicas=-1, dtype="int4", unknown=1)
    assert all(field in told for field in ("spec.replicas", "spec.dtype", "spec.unknown: unknown field"))


def test_a_spec_that_is_none_is_refused() -> None:
    assert isinstance(parse(DeploymentSpec, None), SpecError)
    assert isinstance(parse(DeploymentSpec, ["x"]), SpecError)


def test_quantities_may_be_numbers() -> None:
    assert spec(pod={"resources": {"requests": {"cpu": 2, "memory": "1Gi"}}}).pod.resources.requests.cpu == "2"


def test_the_terms_of_an_affinity_may_be_absent() -> None:
    for affinity in ({}, {"podAntiAffinity": {}}, {"nodeAffinity": {}}):
        assert spec(pod={"affinity": affinity}).pod.affinity == affinity


@pytest.mark.parametrize("terms", [7, [7], [{"matchExpressions": 7}]])
def test_terms_that_nothing_can_be_merged_into_are_refused(terms: Any) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    assert "nodeSelectorTerms must be a list of terms" in refusal(pod={"affinity": {"nodeAffinity": required}})


@pytest.mark.parametrize(("layout", "ranks"), [({}, 1), ({"tensor": 8, "nodes": 2}, 8), ({"tensor": 2, "data": 4}, 8)])
def test_a_replica_has_tensor_times_data_ranks(layout: dict[str, int], ranks: int) -> None:
    assert spec(parallelism=layout).parallelism.ranks == ranks
