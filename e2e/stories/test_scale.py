"""A team scales with kubectl."""

import json

from e2e.stories.endpoint import Endpoint


def test_kubectl_scale_adds_a_replica_and_takes_it_away(tiny: Endpoint) -> None:
    first = tiny.pod()["metadata"]["uid"]
    tiny.cluster.kubectl("scale", "wd/tiny", "--replicas=2", namespace=tiny.namespace)
    status = tiny.ready()["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)
    assert first in {pod["metadata"]["uid"] for pod in tiny.pods()}

    tiny.cluster.kubectl("scale", "wd/tiny", "--replicas=1", namespace=tiny.namespace)
    tiny.cluster.wait(
        lambda: len(tiny.pods()) == 1, seconds=60, what="one pod", about=tiny.id, namespace=tiny.namespace
    )
    assert tiny.ready()["status"]["replicas"] == 1


def test_an_autoscaler_finds_replicas_and_selector_in_the_scale_subresource(tiny: Endpoint) -> None:
    path = f"/apis/serving.wenxin.io/v1alpha1/namespaces/{tiny.namespace}/wenxindeployments/tiny/scale"
    scale = json.loads(tiny.cluster.kubectl("get", "--raw", path))
    assert scale["spec"]["replicas"] == scale["status"]["replicas"] == 1
    selected = tiny.cluster.list("pods", namespace=tiny.namespace, selector=scale["status"]["selector"])
    assert {pod["metadata"]["uid"] for pod in selected} >= {pod["metadata"]["uid"] for pod in tiny.pods()}


def test_at_zero_replicas_nothing_runs_and_ready_says_so(tiny: Endpoint) -> None:
    tiny.cluster.kubectl("scale", "wd/tiny", "--replicas=0", namespace=tiny.namespace)
    tiny.cluster.wait(lambda: not tiny.pods(), seconds=60, what="no pod", about=tiny.id, namespace=tiny.namespace)
    tiny.cluster.wait(
        lambda: tiny.condition("Ready")["reason"] == "ScaledToZero", seconds=30, what="Ready=False with ScaledToZero"
    )
    tiny.cluster.kubectl("scale", "wd/tiny", "--replicas=1", namespace=tiny.namespace)
    tiny.ready()
