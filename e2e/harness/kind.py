"""A cluster of kind (Kubernetes in Docker), where a Docker daemon answers. Only one of our own name is ever touched."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2e.harness import importer, paths, tools
from e2e.harness.backend import Options
from e2e.harness.errors import CommandError, MissingPrerequisiteError
from e2e.harness.oci import Image
from e2e.harness.progress import say, step

NAME = "wenxin-e2e"


def docker_answers() -> bool:
    """True when there is a Docker daemon that we may use."""
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return not done.returncode


class Kind:
    """The backend for laptops and hosted CI."""

    kind = "kind"
    reaches_services = False
    shares_volumes = False

    @property
    def kubeconfig(self) -> Path:
        """Our own file: the user's kubeconfig and its current context stay as they are."""
        return paths.cache() / "kind" / f"{NAME}.kubeconfig"

    def running(self) -> bool:
        """True when kind knows a cluster of our name and it answers."""
        return NAME in self._kind("get", "clusters").split() and self._answers()

    def up(self, options: Options) -> None:
        """Create the cluster with kind's own node image, then pretend the GPUs."""
        if not docker_answers():
            raise MissingPrerequisiteError("No Docker daemon answers: start Docker, or use --backend local as root.")
        if self.running():
            say("• A kind cluster of ours is up already.")
            return
        self.down()
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        with step(f"Creating kind cluster {NAME} with {options.nodes} node(s)"):
            config = json.dumps(_config(options))
            place = (f"--name={NAME}", f"--kubeconfig={self.kubeconfig}")
            self._kind("create", "cluster", *place, "--config=-", "--wait=180s", stdin=config)
            self._pretend_gpus(options)

    def down(self) -> None:
        """Delete the cluster of our name."""
        if NAME in self._kind("get", "clusters").split():
            with step(f"Removing kind cluster {NAME}"):
                self._kind("delete", "cluster", f"--name={NAME}", f"--kubeconfig={self.kubeconfig}")
        self.kubeconfig.unlink(missing_ok=True)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command as it is: kind publishes the API server on loopback."""
        return list(command)

    def client(self, command: Sequence[str]) -> list[str]:
        """The command as it is; Service names do not resolve, so `Cluster.service` forwards a port."""
        return list(command)

    def load(self, image: Image) -> None:
        """Stream the image into each node's containerd."""
        for node in self._kind("get", "nodes", f"--name={NAME}").split():
            client = ["docker", "exec", "--interactive", node, "ctr", "--namespace", "k8s.io"]
            importer.load(client, image, node=node)

    def status(self) -> str:
        """The nodes."""
        if not self.running():
            return "No kind cluster of ours is up. Start one: python -m e2e.harness up --backend kind"
        return self._kubectl("get", "nodes", "--output=wide")

    def _answers(self) -> bool:
        try:
            return bool(self._kubectl("get", "--raw", "/readyz"))
        except CommandError:
            return False

    def _pretend_gpus(self, options: Options) -> None:
        if not options.gpus:
            return
        change = {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(options.gpus)}
        for node in self._kind("get", "nodes", f"--name={NAME}").split():
            patch = f"--patch={json.dumps([change])}"
            self._kubectl("patch", "node", node, "--subresource=status", "--type=json", patch)
            self._kubectl("label", "node", node, "--overwrite", f"nvidia.com/gpu.product={options.product}")

    def _kind(self, *arguments: str, stdin: str | None = None) -> str:
        return _run([str(tools.find(tools.KIND)), *arguments], stdin)

    def _kubectl(self, *arguments: str) -> str:
        return _run([str(tools.find_kubectl()), f"--kubeconfig={self.kubeconfig}", *arguments], None)


def _config(options: Options) -> dict[str, Any]:
    # With a second node, kind would keep our pods off the first.
    untainted = json.dumps({"kind": "InitConfiguration", "nodeRegistration": {"taints": []}})
    first = {"role": "control-plane", "kubeadmConfigPatches": [untainted]}
    workers = [{"role": "worker"}] * (options.nodes - 1)
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [first, *workers]}


def _run(command: list[str], stdin: str | None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
