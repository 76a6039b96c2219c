"""Copies of the operator as processes of this machine, with the rights that the chart grants, on a real API server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from e2e.harness import paths, processes, tools
from e2e.harness.control_plane import ControlPlane
from e2e.harness.errors import CommandError
from e2e.harness.processes import Process, wait_until

CHART = paths.REPOSITORY / "charts" / "wenxin-operator"
NAMESPACE = "wenxin-system"
NAME = "wenxin-operator"
QUICK_LEASE = {"LEASE_DURATION": "3s", "LEASE_RENEW_DEADLINE": "2s", "LEASE_RETRY_PERIOD": "200ms"}
_SAMPLE = re.compile(r"^([a-zA-Z_:][^ ]*(?:\{.*\})?) (\S+)$", re.MULTILINE)

Object = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A control plane with our definitions and the chart's rights."""

    plane: ControlPlane
    folder: Path

    def get(self, what: str, name: str, namespace: str = "default") -> Object | None:
        """One object, None where there is none."""
        try:
            found: Object = json.loads(self.plane.kubectl("get", what, name, "-n", namespace, "-o", "json"))
        except CommandError as error:
            if "NotFound" in str(error):
                return None
            raise
        return found

    def list(self, what: str, namespace: str = "default") -> list[Object]:
        """All objects of a kind."""
        found: list[Object] = json.loads(self.plane.kubectl("get", what, "-n", namespace, "-o", "json"))["items"]
        return found

    def apply(self, *manifests: Object) -> None:
        """As a user would."""
        self.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def log_in(self, account: str, path: Path) -> None:
        """Write a kubeconfig of a service account in the operator's namespace."""
        config = json.loads(self.plane.kubeconfig.read_text())
        token = self.plane.kubectl("create", "token", account, "-n", NAMESPACE, "--duration=1h").strip()
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
        path.write_text(json.dumps(config))

    @contextmanager
    def operator(self, name: str = "first", **settings: str) -> Iterator["Copy"]:
        """A copy that leads, or waits to, for the length of the block."""
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        ours = {
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            "IDENTITY": name,
            "LEASE_NAMESPACE": NAMESPACE,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "METRICS_PROVIDER": "none",
            **QUICK_LEASE,
            **settings,
        }
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WENXIN_OPERATOR_")}
        environment |= {f"WENXIN_OPERATOR_{key}": value for key, value in ours.items()}
        command = [sys.executable, "-W", "error", "-m", "wenxin_operator"]
        process = processes.start(name, command, log=log, dies_with_parent=True, environment=environment)
        copy = Copy(process, log)
        try:
            copy.wait(lambda: copy.port is not None, "probes")
            yield copy
        finally:
            process.stop(grace=15)


@dataclass(frozen=True)
class Copy:
    """One running copy."""

    process: Process
    log: Path

    @property
    def port(self) -> int | None:
        """Where its metrics are; None until it says so."""
        found = re.search(r"metrics on port (\d+)", self.log.read_text())
        return int(found[1]) if found else None

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        return {name: float(value) for name, value in _SAMPLE.findall(text)}

    def total(self, name: str, without: str = "\0") -> float:
        """The sum of all samples of one metric whose labels do not contain `without`."""
        samples = self.metrics().items()
        return sum(value for key, value in samples if key.startswith(f"{name}{{") and without not in key)

    def refused(self) -> list[str]:
        """Requests that the API server answered 403, for which the chart grants no right."""
        ours = (name for name in self.metrics() if name.startswith("wenxin_operator_api_requests_total"))
        return [name for name in ours if 'code="403"' in name]

    def leads(self) -> bool:
        """Whether it holds the lease."""
        return self.metrics()["wenxin_operator_leader"] == 1

    def answers(self, path: str) -> bool:
        """Whether a probe succeeds."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False).is_success

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Wait until the condition holds, or fail with the copy's log."""
        wait_until(lambda: bool(condition()), seconds=seconds, processes=[(self.process, self.log)], what=what)


def prepare(plane: ControlPlane, *, watch: tuple[str, ...] = ()) -> World:
    """Put definitions, namespaces and rights in place, and log the chart's service account in."""
    for definition in sorted((CHART / "crds").glob("*.yaml")):
        plane.kubectl("apply", "--server-side", "-f", str(definition))
    for namespace in (NAMESPACE, *watch):
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    shown = [f"--show-only=templates/{name}.yaml" for name in ("rbac", "serviceaccount")]
    choice = (f"--set-json=watchNamespaces={json.dumps(watch)}", "--set=metrics.provider=none")
    plane.kubectl("apply", "-f", "-", stdin=template(*shown, *choice))
    world = World(plane, plane.directory / "copies")  # goes when the control plane goes
    world.folder.mkdir()
    world.log_in(NAME, world.folder / "kubeconfig")
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return world


def template(*arguments: str, release: str = NAME) -> str:
    """The chart, rendered."""
    return helm("template", release, str(CHART), f"--namespace={NAMESPACE}", *arguments)


def helm(*arguments: str, kubeconfig: Path | None = None) -> str:
    """Run Helm; without a kubeconfig it reaches no cluster.

    Raises:
        CommandError: with what Helm said.
    """
    environment = os.environ | {"KUBECONFIG": str(kubeconfig or "/nowhere")}
    command = [str(tools.find(tools.HELM)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    if done.returncode:
        raise CommandError(done.stderr.strip())
    return done.stdout
