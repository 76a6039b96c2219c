"""A cluster that is already there: used as it is, never created and never removed."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e.harness import tools
from e2e.harness.backend import Options
from e2e.harness.errors import HarnessError, MissingPrerequisiteError, NotOursError
from e2e.harness.oci import Image
from e2e.harness.progress import say


class Existing:
    """The cluster that $KUBECONFIG names. Its nodes must be able to pull the images that are asked for."""

    kind = "existing"
    reaches_services = False
    shares_volumes = True  # if it does not, a story says so after a while: its claim stays Pending

    @property
    def kubeconfig(self) -> Path:
        """The file that somebody named on purpose; ~/.kube/config is never guessed."""
        named = os.environ.get("KUBECONFIG")
        if not named:
            raise MissingPrerequisiteError("Say which cluster: export KUBECONFIG=FILE")
        return Path(named)

    def running(self) -> bool:
        """True when its API server answers."""
        return not self._kubectl("get", "--raw", "/readyz").returncode

    def up(self, options: Options) -> None:
        """Only look whether it answers; nodes and GPUs are what they are."""
        context = self._kubectl("config", "current-context").stdout.strip()
        if not self.running():
            raise HarnessError(f"The cluster of kubeconfig context {context or '(none)'} does not answer.")
        say(f"• Using the cluster of context {context} as it is; {options} is not looked at.")

    def down(self) -> None:
        """Refuse."""
        raise NotOursError(
            "This harness did not make the cluster, so it does not remove it. To remove what the demo installed:\n"
            "  helm uninstall wenxin-operator --namespace wenxin-system"
        )

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command as it is."""
        return list(command)

    def client(self, command: Sequence[str]) -> list[str]:
        """The command as it is; Service names do not resolve."""
        return list(command)

    def load(self, image: Image) -> None:
        """Images cannot be put on nodes that are not ours."""
        say(f"• {image.reference} is not loaded: push it to a registry that your cluster pulls from.")

    def status(self) -> str:
        """The nodes."""
        return self._kubectl("get", "nodes", "--output=wide").stdout

    def _kubectl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(tools.find_kubectl()), f"--kubeconfig={self.kubeconfig}", "--request-timeout=10s", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
