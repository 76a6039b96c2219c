"""One WenxinDeployment as its user sees it: change it, wait for it, look at its pods, ask it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from e2e.harness.cluster import Cluster, Object

LABEL = "serving.wenxin.io/deployment"
WORKLOADS = "deployments,statefulsets"
CHILDREN = f"{WORKLOADS},services,serviceaccounts,networkpolicies,poddisruptionbudgets,configmaps,controllerrevisions"
READY_SECONDS = 180.0


@dataclass(frozen=True)
class Endpoint:
    """A deployment as its YAML describes it. Nothing is remembered: every question goes to the API server."""

    cluster: Cluster
    manifest: Object
    namespace: str

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.manifest["metadata"]["name"])

    @property
    def selector(self) -> str:
        """Selects pods and children."""
        return f"{LABEL}={self.name}"

    @property
    def id(self) -> str:
        """KIND/NAME."""
        return f"wenxindeployment/{self.name}"

    def get(self) -> Object:
        """The resource."""
        return self.cluster.get(self.id, namespace=self.namespace)

    def condition(self, kind: str) -> Object:
        """One condition of it."""
        return condition(self.get(), kind)

    def apply(self, **changes: Any) -> None:
        """Apply its YAML with these changes to the spec: changes of an earlier call are taken back."""
        spec = _merged(self.manifest["spec"], changes)
        self.cluster.apply({**self.manifest, "spec": spec}, namespace=self.namespace)

    def ready(self, seconds: float = READY_SECONDS) -> Object:
        """Wait until the newest spec is what answers: Ready is True, and kube-proxy has followed the EndpointSlice."""
        found = self.cluster.wait_condition(self.id, "Ready", namespace=self.namespace, seconds=seconds)
        if self.cluster.backend.reaches_services:
            self._followed_by_the_proxy()
        return found

    def _followed_by_the_proxy(self) -> None:
        """Wait until no answer comes from a process older than the pods that stay."""

        def followed() -> bool:
            running = [started for pod in self.pods() if (started := _started(pod))]
            if not running:
                return False
            oldest = min(running) - timedelta(seconds=2)  # of clocks that count whole seconds
            return all(self._answering_since() > oldest for _ in range(5))

        self.cluster.wait(followed, seconds=30, what="every answer to come from a pod that stays", about=self.id)

    def _answering_since(self) -> datetime:
        try:
            with self.client() as client:
                metrics = client.get("/metrics").raise_for_status().text
        except httpx.TransportError:
            return datetime.min.replace(tzinfo=UTC)
        (since,) = re.findall(r"^process_start_time_seconds (\S+)$", metrics, re.MULTILINE)
        return datetime.fromtimestamp(float(since), UTC)

    def pods(self) -> list[Object]:
        """Its serving pods that are not on their way out."""
        runtime = f"{self.selector},app.kubernetes.io/component=runtime"
        found = self.cluster.list("pods", namespace=self.namespace, selector=runtime)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod(self) -> Object:
        """Its only pod."""
        (pod,) = self.pods()
        return pod

    def children(self) -> dict[str, Object]:
        """Everything the operator made for it, by KIND/NAME, pods left out."""
        found = self.cluster.list(CHILDREN, namespace=self.namespace, selector=self.selector)
        return {f"{child['kind']}/{child['metadata']['name']}": child for child in found}

    def flags(self) -> str:
        """The flags that its pods are started with."""
        (workload,) = self.cluster.list(WORKLOADS, namespace=self.namespace, selector=self.selector)
        mounts = workload["spec"]["template"]["spec"]["volumes"]
        (name,) = [volume["configMap"]["name"] for volume in mounts if "configMap" in volume]
        return str(self.cluster.get(f"configmap/{name}", namespace=self.namespace)["data"]["flags"])

    def child(self, kind: str) -> Object:
        """Its only child of a kind."""
        (child,) = [child for name, child in self.children().items() if name.startswith(f"{kind}/")]
        return child

    def url(self) -> AbstractContextManager[str]:
        """The base URL of its Service for as long as the block lasts."""
        return self.cluster.service(self.name, 8000, namespace=self.namespace)

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """An HTTP client on its Service.

        It connects again when it is refused: kube-proxy learns of a changed EndpointSlice a second after the operator.
        """
        patient = httpx.HTTPTransport(retries=5, trust_env=False)
        with self.url() as url, httpx.Client(base_url=url, timeout=60.0, trust_env=False, transport=patient) as client:
            yield client

    def tokens_in(self, seconds: float) -> int:
        """How many tokens this machine generates in so much time, as busy as it is now; at most what fits the model."""
        body = {"model": self.name, "prompt": "你好", "max_tokens": 50, "ignore_eos": True}
        with self.client() as client:
            took = client.post("/v1/completions", json=body).raise_for_status().elapsed.total_seconds()
        return max(100, min(8000, int(50 * seconds / took)))

    def load(self) -> dict[str, Any]:
        """What /load says."""
        with self.client() as client:
            answer: dict[str, Any] = client.get("/load").raise_for_status().json()
            return answer

    def answers_with(self, **load: int) -> None:
        """Wait until every answer comes from pods whose /load says this."""
        what = f"every answer to come from a pod with {load}"
        self.cluster.wait(lambda: all(load.items() <= self.load().items() for _ in range(5)), seconds=10, what=what)

    def ask(self, max_tokens: int = 4) -> str:
        """One short answer, not streamed: the most likely one, so that the same weights give the same."""
        body = {"model": self.name, "prompt": "你好", "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
        with self.client() as client:
            return str(client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"])


def _started(pod: Object) -> datetime | None:
    """When the container of a pod was started last, if it runs."""
    states = [container["state"] for container in pod["status"].get("containerStatuses", [])]
    return next((datetime.fromisoformat(state["running"]["startedAt"]) for state in states if "running" in state), None)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Object:
    result = dict(base)
    for key, value in changes.items():
        result[key] = _merged(result.get(key, {}), value) if isinstance(value, Mapping) else value
    return result


def condition(resource: Object, kind: str) -> Object:
    """One condition of a resource, as it stands."""
    (found,) = [each for each in resource["status"]["conditions"] if each["type"] == kind]
    return dict(found)


def summary(resource: Object) -> str:
    """The conditions, for an assertion's message."""
    return json.dumps(resource.get("status", {}).get("conditions", []), indent=1, ensure_ascii=False)
