"""A user names a model of a hub: it is downloaded once, past broken connections and a killed pod, and then answers."""

import re
from typing import Any

import httpx
import pytest

from e2e.harness.cluster import Cluster, Object
from e2e.stories import hub
from e2e.stories.endpoint import Endpoint, condition
from e2e.stories.installation import Operator

NAME = "fetched"
SECONDS = 90.0


@pytest.fixture
def served(operator: Operator, cluster: Cluster, namespace: str) -> str:
    """A hub in the story's own namespace; its URL in the cluster."""
    del operator
    cluster.apply(hub.manifests(), namespace=namespace)
    cluster.wait_condition(f"pod/{hub.NAME}", "Ready", namespace=namespace, seconds=SECONDS)
    return f"http://{hub.NAME}.{namespace}.svc:{hub.PORT}"


def deployment(mirror: str) -> Object:
    """An endpoint whose weights the hub has."""
    model = {"source": f"hf://{hub.REPOSITORY}", "mirror": mirror, "storage": {"size": "256Mi"}}
    return {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinDeployment",
        "metadata": {"name": NAME},
        "spec": {"model": model, "accelerator": {"resource": "none"}, "drain": {"timeout": "10s"}},
    }


def download_pods(cluster: Cluster, namespace: str) -> list[Object]:
    """Pods of downloads that run."""
    selector = "app.kubernetes.io/component=download"
    found = cluster.list("pods", namespace=namespace, selector=selector)
    return [pod for pod in found if pod["status"].get("phase") == "Running"]


def _stalls(url: str) -> bool:
    try:
        return httpx.post(f"{url}/stall").is_success
    except httpx.TransportError:
        return False


def test_download_resumed(cluster: Cluster, namespace: str, served: str) -> None:
    endpoint = Endpoint(cluster, deployment(served), namespace)
    with cluster.service(hub.NAME, hub.PORT, namespace=namespace) as url:
        # The Service's address may lead nowhere for a moment after the pod is ready.
        cluster.wait(lambda: _stalls(url), seconds=SECONDS, what="the hub to answer behind its Service")
        endpoint.apply()
        model = cluster.wait(
            lambda: _under_way(cluster.find(f"wenxinmodel/{NAME}", namespace=namespace)),
            seconds=SECONDS,
            what="the first chunk of the weights, and no more",
            about=f"wenxinmodel/{NAME}",
            namespace=namespace,
        )
        assert condition(model, "Ready")["reason"] == "Downloading"
        line = cluster.kubectl("get", "wm", NAME, "--no-headers", namespace=namespace)
        assert re.search(rf"False +Downloading +\d\d % +[\d.]+ MB +hf://{hub.REPOSITORY}", line), line
        sent: dict[str, int] = httpx.get(f"{url}/sent").json()

        (pod,) = download_pods(cluster, namespace)
        name = pod["metadata"]["name"]
        cluster.kubectl("delete", "pod", name, "--force", "--grace-period=0", namespace=namespace)
        cluster.wait(
            lambda: [one for one in download_pods(cluster, namespace) if one["metadata"]["name"] != name],
            seconds=SECONDS,
            what="another attempt",
            namespace=namespace,
        )
        httpx.post(f"{url}/go").raise_for_status()
        endpoint.ready()
        again: dict[str, int] = httpx.get(f"{url}/sent").json()
    others = sent.keys() - {"model.safetensors"}
    assert len(others) > 3
    assert {file: again[file] for file in others} == {file: sent[file] for file in others}, "what was there is kept"
    model = cluster.get(f"wenxinmodel/{NAME}", namespace=namespace)
    size = model["status"]["facts"]["bytes"]
    assert again["model.safetensors"] <= size + hub.CHUNK // 4, "the first chunk is not sent again"
    assert _status(model)["progress"] == "100 %"
    assert _status(model)["revision"] == "0123456789" * 4
    assert _answers(endpoint)


def _under_way(model: Object | None) -> Object | None:
    """The model, once all but what stalls is there."""
    download = _status(model or {}).get("download", {})
    return model if download.get("doneBytes", 0) >= hub.CHUNK else None


def _status(model: Object) -> dict[str, Any]:
    status: dict[str, Any] = model.get("status", {})
    return status


def _answers(endpoint: Endpoint) -> bool:
    body = {"model": NAME, "prompt": "你好", "max_tokens": 4}
    with endpoint.client() as client:
        answer = client.post("/v1/completions", json=body).raise_for_status().json()
    return bool(answer["usage"]["completion_tokens"])
