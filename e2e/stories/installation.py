"""The operator as Helm installed it: its pods, its metrics, and ways to take it away for a while."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from e2e.harness import demo
from e2e.harness.cluster import Cluster, Object

NAME = demo.RELEASE
_METRICS = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
_SAMPLE = re.compile(r"^([a-zA-Z_:][^ ]*(?:\{.*\})?) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Operator:
    """The release in `namespace`."""

    cluster: Cluster
    namespace: str = demo.NAMESPACE

    def deployment(self) -> Object:
        """Its Deployment."""
        return self.cluster.get(f"deployment/{NAME}", namespace=self.namespace)

    def pods(self) -> list[Object]:
        """Its pods that are not on their way out."""
        found = self.cluster.list("pods", namespace=self.namespace, selector=f"app.kubernetes.io/name={NAME}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod(self) -> Object:
        """Its only pod."""
        (pod,) = self.pods()
        return pod

    def pod_name(self) -> str:
        """The name of its only pod."""
        return str(self.pod()["metadata"]["name"])

    def metrics(self, pod: str) -> dict[str, float]:
        """Samples of one copy by name and labels, as Prometheus would read them."""
        text = self.cluster.exec(pod, "python3", "-c", _METRICS, namespace=self.namespace)
        return {name: float(value) for name, value in _SAMPLE.findall(text)}

    def kill(self) -> None:
        """End every copy without notice; the Deployment brings new ones."""
        selector = f"--selector=app.kubernetes.io/name={NAME}"
        self.cluster.kubectl("delete", "pods", selector, "--force", "--grace-period=0", namespace=self.namespace)

    def scale(self, replicas: int) -> None:
        """Run this many copies; returns once as many are ready, and no other is left."""
        self.cluster.kubectl("scale", f"deployment/{NAME}", f"--replicas={replicas}", namespace=self.namespace)
        self.cluster.wait(
            lambda: len(self.pods()) == replicas and self._ready() == replicas,
            seconds=90,
            what=f"{replicas} ready copies of the operator",
            about=f"deployment/{NAME}",
            namespace=self.namespace,
        )

    @contextmanager
    def down(self) -> Iterator[None]:
        """No copy runs for the length of the block."""
        self.scale(0)
        try:
            yield
        finally:
            self.scale(1)

    def _ready(self) -> int:
        return int(self.deployment()["status"].get("readyReplicas", 0))
