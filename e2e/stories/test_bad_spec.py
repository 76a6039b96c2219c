"""A user writes something wrong: the answer names the field, and what serves goes on serving."""

import json
from typing import Any

import pytest

from e2e.harness.cluster import Cluster
from e2e.harness.errors import CommandError
from e2e.stories.endpoint import Endpoint, condition
from e2e.stories.installation import Operator

GOOD: dict[str, Any] = {"model": {"source": "pvc://models/tiny"}, "accelerator": {"resource": "none"}}


def manifest(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinDeployment",
        "metadata": {"name": "wrong"},
        "spec": GOOD | spec,
    }


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"replica": 2}, 'unknown field "spec.replica"', id="unknown field"),
        pytest.param({"engine": {"maxSeqs": 2}}, 'unknown field "spec.engine.maxSeqs"', id="unknown nested field"),
        pytest.param({"parallelism": {"tensor": 3}}, "spec.parallelism.tensor", id="impossible parallelism"),
        pytest.param({"drain": {"delay": "5 minutes"}}, "spec.drain.delay", id="bad duration"),
        pytest.param({"drain": {"timeout": "48h"}}, "spec.drain.timeout", id="too long a duration"),
        pytest.param(
            {"model": {"ref": "a", "source": "pvc://a/b"}}, "exactly one of ref, source and preset", id="ref and source"
        ),
        pytest.param({"model": {}}, "exactly one of ref, source and preset", id="no model"),
        pytest.param({"model": {"source": "ftp://a/b"}}, "pvc://CLAIM/PATH", id="source of an unknown kind"),
        pytest.param({"dtype": "float8"}, "spec.dtype", id="unknown dtype"),
        pytest.param({"quantization": "int4"}, "spec.quantization", id="unknown quantization"),
        pytest.param({"monitoring": {"otlpEndpoint": "collector:4318"}}, "spec.monitoring.otlpEndpoint", id="no URL"),
        pytest.param({"engine": {"maxNumSeqs": 0}}, "spec.engine.maxNumSeqs", id="no slots"),
        pytest.param({"replicas": -1}, "spec.replicas", id="negative replicas"),
        pytest.param(
            {"accelerator": {"resource": "none", "products": ["NVIDIA-A100-SXM4-80GB"]}},
            "spec.accelerator",
            id="products without GPUs",
        ),
        pytest.param(
            {"pod": {"labels": {"app.kubernetes.io/name": "x"}}}, "spec.pod.labels", id="label of the operator"
        ),
    ],
)
def test_the_api_server_refuses_and_names_the_field(
    operator: Operator, cluster: Cluster, spec: dict[str, Any], words: str
) -> None:
    del operator  # the rules are in the schema: they hold whether or not it runs
    with pytest.raises(CommandError) as refused:
        cluster.kubectl(
            "apply", "--dry-run=server", "--filename=-", namespace="default", stdin=json.dumps(manifest(spec))
        )
    assert words in str(refused.value)


def test_the_same_manifest_without_the_mistake_is_taken(operator: Operator, cluster: Cluster) -> None:
    del operator
    cluster.kubectl("apply", "--dry-run=server", "--filename=-", namespace="default", stdin=json.dumps(manifest({})))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"maxModelLen": 100_000}, "maxModelLen", id="longer than the model's context"),
        pytest.param({"pod": {"affinity": {"nodeAffinity": 7}}}, "affinity", id="nonsense in an open field"),
    ],
)
def test_an_update_that_only_the_operator_can_judge_changes_no_pod_and_says_why(
    tiny: Endpoint, change: dict[str, Any], words: str
) -> None:
    pod, template = tiny.pod(), tiny.child("Deployment")["spec"]["template"]
    tiny.apply(**change)
    resource = tiny.cluster.wait_condition(tiny.id, "Accepted", "False", namespace=tiny.namespace, seconds=30)

    assert words in condition(resource, "Accepted")["message"]
    assert condition(resource, "Ready")["status"] == "False"
    assert condition(resource, "Available")["status"] == "True"
    assert tiny.child("Deployment")["spec"]["template"] == template
    assert tiny.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert tiny.ask()

    tiny.apply()
    tiny.ready(30)
    assert tiny.pod()["metadata"]["uid"] == pod["metadata"]["uid"]


def test_while_an_update_is_refused_the_accepted_one_is_still_repaired(tiny: Endpoint) -> None:
    tiny.apply(maxModelLen=100_000)
    tiny.cluster.wait_condition(tiny.id, "Accepted", "False", namespace=tiny.namespace, seconds=30)
    tiny.cluster.delete(f"service/{tiny.name}", namespace=tiny.namespace, wait=True)
    tiny.cluster.wait(
        lambda: tiny.cluster.find(f"service/{tiny.name}", namespace=tiny.namespace),
        seconds=20,
        what="the Service to come back",
    )
    tiny.apply()
    tiny.ready(30)
