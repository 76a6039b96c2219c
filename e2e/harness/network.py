"""A network namespace with one bridge and no way out: nothing that a cluster sends can leave the machine."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.components import SERVICE_RANGE
from e2e.harness.processes import INSIDE

BRIDGE = "kube0"
POD_RANGE = "10.244.77.0/24"
NODE_ADDRESSES = ("10.244.77.1", "10.244.77.2")
POD_ADDRESSES = (("10.244.77.10", "10.244.77.127"), ("10.244.77.128", "10.244.77.250"))  # first and last, by node


@dataclass(frozen=True)
class Network:
    """The namespace of one cluster, by name."""

    name: str

    @property
    def path(self) -> Path:
        """The file that names the namespace."""
        return Path("/run/netns") / self.name

    @property
    def exists(self) -> bool:
        """True after `create` and before `delete`."""
        return self.path.exists()

    def create(self, nodes: int) -> None:
        """Make the namespace with a bridge that holds the nodes' addresses."""
        _run("ip", "netns", "add", self.name)
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", BRIDGE, "type", "bridge")
        for address in NODE_ADDRESSES[:nodes]:
            self._ip("addr", "add", f"{address}/24", "dev", BRIDGE)
        self._ip("link", "set", BRIDGE, "up")
        # Without this route a Service's address is "unreachable" before kube-proxy's rules see the packet.
        self._ip("route", "add", SERVICE_RANGE, "dev", BRIDGE)
        _run(*self.inside("sysctl", "-qw", "net.ipv4.ip_forward=1"))

    @property
    def filters_bridged_packets(self) -> bool:
        """True when replies between two pods on the bridge pass iptables, as Services need (module br_netfilter)."""
        setting = "net.bridge.bridge-nf-call-iptables=1"
        return not subprocess.run(self.inside("sysctl", "-qw", setting), capture_output=True, check=False).returncode

    def delete(self) -> None:
        """Remove the namespace; the bridge and the pods' interfaces go with it. Safe to repeat."""
        if self.exists:
            _run("ip", "netns", "delete", self.name)
        folder = self.path.parent
        if folder.exists() and not any(folder.iterdir()):
            # `ip netns add` mounts the folder on itself; without namespaces nobody needs that.
            subprocess.run(["umount", str(folder)], capture_output=True, check=False)

    def inside(self, *command: str) -> list[str]:
        """The command as it runs in the namespace. `ip netns exec` would hide /sys/fs/cgroup; nsenter does not."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def with_names(self, resolver: Path, command: Sequence[str]) -> list[str]:
        """The command in the namespace, with `resolver` as its /etc/resolv.conf, so that Service names resolve."""
        target = os.path.realpath("/etc/resolv.conf")
        script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        private = ["unshare", "--mount", "--propagation", "slave", "env", f"{INSIDE}=1"]
        return self.inside(*private, "sh", "-c", script, "sh", str(resolver), target, *command)

    def _ip(self, *arguments: str) -> None:
        _run(*self.inside("ip", *arguments))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
