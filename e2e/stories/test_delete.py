"""A team deletes what it made, and nothing holds it back."""

from e2e.harness.cluster import Cluster, Object
from e2e.stories.endpoint import Endpoint
from e2e.stories.installation import Operator

DOOMED = "doomed"


def doomed(cluster: Cluster, namespace: str) -> Endpoint:
    manifest: Object = {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinDeployment",
        "metadata": {"name": DOOMED},
        "spec": {"model": {"source": "pvc://models/tiny"}, "accelerator": {"resource": "none"}, "replicas": 0},
    }
    endpoint = Endpoint(cluster, manifest, namespace)
    endpoint.apply()
    cluster.wait_condition(endpoint.id, "ModelReady", namespace=namespace, seconds=120)
    cluster.wait(lambda: "Deployment/doomed" in endpoint.children(), seconds=30, what="the Deployment")
    return endpoint


def test_deleting_it_while_the_operator_is_down_takes_every_child_with_it(
    operator: Operator, cluster: Cluster, checkpoints: str
) -> None:
    endpoint = doomed(cluster, checkpoints)
    kinds = {name.split("/")[0] for name in endpoint.children()}
    assert {"Deployment", "Service", "ServiceAccount", "NetworkPolicy", "ConfigMap"} <= kinds
    assert "finalizers" not in endpoint.get()["metadata"]

    with operator.down():
        cluster.kubectl("delete", endpoint.id, "--wait=true", "--timeout=20s", namespace=checkpoints)
        cluster.wait(
            lambda: not endpoint.children() and not cluster.find(f"wenxinmodel/{DOOMED}", namespace=checkpoints),
            seconds=60,
            what="every child of a deleted resource to go, without the operator",
            namespace=checkpoints,
        )
        jobs = cluster.list("jobs", namespace=checkpoints, selector=f"serving.wenxin.io/model={DOOMED}")
        assert jobs == []
