"""The operator's own process on a real API server, looked at from outside: what its benchmarks share."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from wenxin_operator.names import API_VERSION, content_hash

DEFAULT_NAMESPACE = "default"
SOURCE = "pvc://weights/model"
DEADLINE_SECONDS = 120
MERGE = {"Content-Type": "application/merge-patch+json"}
_PORT = re.compile(r"probes and metrics on port (\d+)")
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
T = TypeVar("T")


class Operator:
    """The operator's process, looked at from outside."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        port = until(lambda: _PORT.search(log.read_text()), f"the operator to listen; see {log}")
        self._metrics = f"http://127.0.0.1:{port[1]}/metrics"

    def total(self, metric: str) -> float:
        """The sum of a metric over its labels."""
        return sum(float(value) for _, value in self.samples(metric))

    def writes(self) -> float:
        """Requests that changed an object, but for the Lease, which is renewed for as long as the operator lives."""
        samples = self.samples("wenxin_operator_writes_total")
        return sum(float(value) for labels, value in samples if 'resource="leases"' not in labels)

    def samples(self, metric: str) -> list[tuple[str, str]]:
        """Labels as they are written, and values."""
        text = httpx.get(self._metrics, trust_env=False).text
        return re.findall(rf"^{metric}((?:{{[^}}]*}})?) (\S+)$", text, re.MULTILINE)

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def most_resident_bytes(self) -> int:
        """Most memory that it ever held."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    @property
    def cpu_seconds(self) -> float:
        """Processor time since its start."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


@contextlib.contextmanager
def operating(kubeconfig: Path, log: Path, resync_seconds: int) -> Iterator[Operator]:
    """Run it for the length of the block; it ends as a pod would."""
    settings = {
        "KUBECONFIG": str(kubeconfig),
        "HTTP_PORT": "0",
        "HTTP_HOST": "127.0.0.1",
        "RESYNC_INTERVAL": f"{resync_seconds}s",
        "LEASE_NAMESPACE": DEFAULT_NAMESPACE,
    }
    variables = os.environ | {f"WENXIN_OPERATOR_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "wenxin_operator"]
    with log.open("wb") as sink, subprocess.Popen(command, env=variables, stdout=sink, stderr=sink) as process:
        try:
            yield Operator(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def ours(namespace: str) -> str:
    """Path of our kinds in a namespace."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}"


def create_verified_model(api: httpx.Client, namespace: str = DEFAULT_NAMESPACE) -> None:
    """A claim, and a WenxinModel whose inspection lies behind it: there is no node to run the Job."""
    access = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = post(
        api, f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", "v1", "PersistentVolumeClaim", "weights", access
    )
    post(api, f"{ours(namespace)}/wenxinmodels", API_VERSION, "WenxinModel", "weights", {"source": SOURCE})
    status = {
        "observedGeneration": 1,
        "sourceHash": content_hash([SOURCE, claim["metadata"]["uid"]], length=16),
        "digest": "sha256:" + "0" * 64,
        "facts": {
            "architecture": "Ernie4_5ForCausalLM",
            "parameters": 10**9,
            "contextLength": 131072,
            "dtype": "bfloat16",
        },
    }
    path = f"{ours(namespace)}/wenxinmodels/weights/status"
    api.patch(path, headers=MERGE, content=json.dumps({"status": status})).raise_for_status()


def post(api: httpx.Client, path: str, version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Create an object."""
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    created: dict[str, Any] = api.post(path, json=body).raise_for_status().json()
    return created


def at_rest(operator: Operator) -> bool:
    """Whether it has worked and has nothing to do."""
    busy = ("wenxin_operator_queue_length", "wenxin_operator_queue_running")
    return operator.total("wenxin_operator_reconcile_total") > 0 and not any(map(operator.total, busy))


def until(check: Callable[[], T | None], what: str, *, every: float = 0.05, seconds: float = DEADLINE_SECONDS) -> T:
    """Poll until the check is true, and return what it said."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(every)
    return answer
