"""Where everything of one local cluster is, and the marker that says it is ours."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.harness import network, paths, prerequisites
from e2e.harness.backend import Options
from e2e.harness.cgroups import ControlGroup
from e2e.harness.components import ControlPlaneLayout
from e2e.harness.errors import MissingPrerequisiteError, NotOursError
from e2e.harness.network import Network
from e2e.harness.node import NAMES, Node
from e2e.harness.processes import Ledger

MAKER = "wenxin-operator e2e harness"


@dataclass(frozen=True)
class Site:
    """One local cluster by name; two names can run side by side."""

    name: str = "e2e"

    @property
    def directory(self) -> Path:
        """All its files; gone after `down`."""
        return paths.state(self.name)

    @property
    def layout(self) -> ControlPlaneLayout:
        """Its control plane's places; etcd's ports are inside the namespace, so they are always free."""
        return ControlPlaneLayout(self.directory, address=network.NODE_ADDRESSES[0])

    @property
    def network(self) -> Network:
        """Its network namespace."""
        return Network(f"wenxin-{self.name}")

    @property
    def group(self) -> ControlGroup:
        """The control group of its pods."""
        return ControlGroup(f"wenxin-{self.name}")

    @property
    def ledger(self) -> Ledger:
        """Its processes."""
        return Ledger(self.directory / "processes.jsonl")

    @property
    def volumes(self) -> Path:
        """The storage provisioner's folder, with one folder for each volume."""
        return self.directory / "volumes"

    @property
    def resolver(self) -> Path:
        """The resolv.conf of the nodes and of commands that run inside."""
        return self.directory / "resolv.conf"

    def nodes(self, count: int = len(NAMES)) -> list[Node]:
        """The first nodes, or all that there could be."""
        cni = prerequisites.cni_folder()
        if cni is None:
            raise MissingPrerequisiteError("apt-get install --yes containernetworking-plugins")
        stores = paths.cache() / "containerd" / self.name
        return [Node(i, self.layout, self.group, stores / NAMES[i], cni) for i in range(count)]

    def claim(self, options: Options) -> None:
        """Write the marker before anything else is made."""
        self.directory.mkdir(parents=True)
        self._marker.write_text(json.dumps({"made_by": MAKER, "options": asdict(options)}))

    def complete(self) -> None:
        """Note that `up` came to its end."""
        (self.directory / "complete").touch()

    @property
    def is_complete(self) -> bool:
        """False while `up` is at work, and after it was interrupted."""
        return (self.directory / "complete").exists()

    def options(self) -> Options | None:
        """What the cluster was made with; None when there is none.

        Raises:
            NotOursError: the folder or the namespace exists, but this harness did not make it.
        """
        if not self.directory.exists():
            if self.network.exists:
                raise NotOursError(
                    f"Network namespace {self.network.name} exists, and nothing says that this harness made it.\n"
                    f"  If it is a leftover: ip netns delete {self.network.name}"
                )
            return None
        try:
            marker = json.loads(self._marker.read_text())
        except (OSError, ValueError):
            marker = {}
        if marker.get("made_by") != MAKER:
            raise NotOursError(f"{self.directory} was not made by this harness, so it is left alone.")
        return Options(**marker["options"])

    @property
    def _marker(self) -> Path:
        return self.directory / "cluster.json"
