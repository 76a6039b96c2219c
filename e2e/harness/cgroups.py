"""The control group beneath which a cluster's pods live, on cgroup v1 and v2 hosts."""

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.errors import HarnessError

MOUNT = Path("/sys/fs/cgroup")
# The kubelet refuses a root without these (v2); the others are delegated where the kernel has them.
NEEDED = {"cpu", "memory", "pids", "cpuset"}
WANTED = NEEDED | {"io", "hugetlb"}


@dataclass(frozen=True)
class ControlGroup:
    """A group at the top of the hierarchy, or in every v1 hierarchy, with one child for each node."""

    name: str
    mount: Path = MOUNT

    def create(self, children: list[str]) -> None:
        """Make the group and its children, ready to be the kubelets' cgroupRoot."""
        for root in self._hierarchies():
            if self._unified:
                _delegate(root)
            for path in (root / self.name, *(root / self.name / child for child in children)):
                path.mkdir(exist_ok=True)
                if self._unified:
                    _delegate(path)
                elif root.name == "cpuset":
                    _inherit_cpuset(path)

    def kill(self) -> None:
        """SIGKILL everything in the group; processes that fork meanwhile are caught by another round."""
        for _ in range(100):
            pids = self.processes()
            if not pids:
                return
            for pid in pids:
                _kill(pid)
            time.sleep(0.02)
        raise HarnessError(f"Processes in control group {self.name} survive SIGKILL: {self.processes()}")

    def processes(self) -> list[int]:
        """Ids of all processes in the group and below; 0 (outside our pid namespace) is left out."""
        found: set[int] = set()
        for root in self._hierarchies():
            for base, _, _ in os.walk(root / self.name):
                found.update(_pids(Path(base) / "cgroup.procs"))
        return sorted(found - {0, os.getpid()})

    def remove(self) -> None:
        """Remove the group, deepest first. Safe to repeat."""
        for root in self._hierarchies():
            for base, _, _ in os.walk(root / self.name, topdown=False):
                _remove(Path(base))

    def remains(self) -> list[Path]:
        """Folders of the group that still exist."""
        return [root / self.name for root in self._hierarchies() if (root / self.name).exists()]

    @property
    def _unified(self) -> bool:
        return (self.mount / "cgroup.controllers").exists()

    def _hierarchies(self) -> list[Path]:
        if self._unified:
            return [self.mount]
        lines = Path("/proc/mounts").read_text().splitlines()
        points = [fields[1] for fields in map(str.split, lines) if fields[2] in {"cgroup", "cgroup2"}]
        return [Path(point) for point in points if Path(point).parent == self.mount]


def _delegate(path: Path) -> None:
    """Hand the controllers on to children (v2)."""
    offered = set((path / "cgroup.controllers").read_text().split())
    if lacking := NEEDED - offered:
        raise HarnessError(f"{path} offers no {', '.join(sorted(lacking))} controller; the kubelet needs it.")
    try:
        (path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(offered & WANTED)))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise HarnessError(
            f"{path} holds processes, so its controllers cannot be handed on (this happens inside a container).\n"
            f"  Move them first: mkdir {path}/init && xargs -rn1 < {path}/cgroup.procs > {path}/init/cgroup.procs"
        ) from error


def _inherit_cpuset(path: Path) -> None:
    """A v1 cpuset starts empty, and nothing can run in it until it is filled."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        (path / name).write_text((path.parent / name).read_text())


def _pids(path: Path) -> list[int]:
    try:
        return [int(line) for line in path.read_text().split()]
    except OSError:  # the group went away, or is threaded
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _remove(path: Path) -> None:
    """The kernel lets go of a dead process's group a moment after the process."""
    for _ in range(100):
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise HarnessError(f"Control group {path} cannot be removed: it is busy.")
