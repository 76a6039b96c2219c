"""What a kind of cluster must be able to do. Everything else (`cluster.Cluster`) is built on it, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e.harness.oci import Image


@dataclass(frozen=True)
class Options:
    """What a cluster is asked to have.

    Attributes:
        nodes: 1 or 2.
        gpus: pretended `nvidia.com/gpu` per node; the scheduler and the kubelet count them, nothing computes on them.
        product: what the label `nvidia.com/gpu.product` says.
    """

    nodes: int = 1
    gpus: int = 0
    product: str = "NVIDIA-A100-SXM4-80GB"


class Backend(Protocol):
    """One kind of cluster."""

    @property
    def kind(self) -> str:
        """The word for `--backend`."""

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig."""

    @property
    def reaches_services(self) -> bool:
        """True when what `inside` starts can connect to Service addresses and names."""

    @property
    def shares_volumes(self) -> bool:
        """True when the default StorageClass makes ReadWriteMany volumes, which pods on two nodes need."""

    def running(self) -> bool:
        """True when the cluster is there and answers."""

    def up(self, options: Options) -> None:
        """Make the cluster; returns once its nodes are ready. Does nothing when it runs."""

    def down(self) -> None:
        """Remove everything that `up` made. Safe to repeat; never touches what another made."""

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command as it has to be run to reach the API server."""

    def client(self, command: Sequence[str]) -> list[str]:
        """The command as it has to be run to reach Services by name."""

    def load(self, image: Image) -> None:
        """Put an image on every node; only what a node lacks is sent."""

    def status(self) -> str:
        """A few lines for a person."""
