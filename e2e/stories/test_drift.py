"""Somebody edits a child by hand: it is put back. Nobody edits anything: nothing is written."""

from typing import Any

import pytest

from e2e.stories.endpoint import Endpoint
from e2e.stories.installation import Operator

EDITS: dict[str, dict[str, Any]] = {
    "Service": {"spec": {"ports": [{"name": "http", "port": 9000, "protocol": "TCP", "targetPort": "http"}]}},
    "Deployment": {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}},
    "NetworkPolicy": {"spec": {"ingress": []}},
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_child_is_put_back(tiny: Endpoint, kind: str) -> None:
    wanted = tiny.child(kind)
    name = f"{kind.lower()}/{wanted['metadata']['name']}"
    tiny.cluster.patch(name, EDITS[kind], namespace=tiny.namespace)
    tiny.cluster.wait(
        lambda: tiny.child(kind)["spec"] == wanted["spec"],
        seconds=30,
        what=f"{name} as it was",
        namespace=tiny.namespace,
    )
    tiny.ready()


@pytest.mark.parametrize("kind", ["NetworkPolicy", "Service", "ConfigMap"])
def test_a_deleted_child_comes_back(tiny: Endpoint, kind: str) -> None:
    wanted = tiny.child(kind)
    name = f"{kind.lower()}/{wanted['metadata']['name']}"
    tiny.cluster.delete(name, namespace=tiny.namespace, wait=True)
    back = tiny.cluster.wait(
        lambda: tiny.cluster.find(name, namespace=tiny.namespace), seconds=30, what=f"{name} to come back"
    )
    assert back["metadata"]["uid"] != wanted["metadata"]["uid"]
    assert {**back, "metadata": None}.keys() == {**wanted, "metadata": None}.keys()
    tiny.ready()


def test_at_rest_nothing_is_written(operator: Operator, tiny: Endpoint) -> None:
    pod = operator.pod_name()
    tiny.cluster.wait(lambda: _is_alone(tiny), seconds=120, what="what earlier stories left in their namespaces to go")
    passes = _passes(operator, pod)
    tiny.cluster.wait(lambda: _passes(operator, pod) >= passes + 1, seconds=60, what="rest after the last story")
    before, writes = _versions(tiny), _writes(operator, pod)
    passes = _passes(operator, pod)
    tiny.cluster.wait(lambda: _passes(operator, pod) >= passes + 3, seconds=60, what="three more passes")
    assert _versions(tiny) == before
    assert _writes(operator, pod) == writes


def _is_alone(endpoint: Endpoint) -> bool:
    """Whether nothing else is there to reconcile; where a namespace goes, children are missed before their owner."""
    found = endpoint.cluster.kubectl("get", "wd,wm", "--all-namespaces", "--output=name").split()
    return sorted(name.split(".")[0] for name in found) == ["wenxindeployment", "wenxinmodel"]


def _versions(endpoint: Endpoint) -> dict[str, str]:
    model = endpoint.cluster.get("wenxinmodel/tiny", namespace=endpoint.namespace)
    objects = endpoint.children() | {"deployment": endpoint.get(), "model": model}
    return {name: each["metadata"]["resourceVersion"] for name, each in objects.items()}


def _writes(operator: Operator, pod: str) -> dict[str, float]:
    """By what was written; all but the Lease, which is renewed for as long as the operator lives."""
    metrics = operator.metrics(pod)
    return {
        name: value
        for name, value in metrics.items()
        if "writes_total{" in name and "leases" not in name and "reviews" not in name
    }


def _passes(operator: Operator, pod: str) -> float:
    metrics = operator.metrics(pod)
    return sum(value for name, value in metrics.items() if 'reconcile_total{kind="WenxinDeployment"' in name)
