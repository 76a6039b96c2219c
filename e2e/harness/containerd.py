"""One node's containerd. Its store of images outlives the cluster, so that a large image is imported once."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from e2e.harness import mounts, processes
from e2e.harness.errors import CommandError
from e2e.harness.importer import collect_garbage
from e2e.harness.processes import Process

PAUSE_IMAGE = "localhost/wenxin/pause:1"
NAMESPACE = "k8s.io"  # the one that Kubernetes uses
SHIM_SOCKETS = Path("/run/containerd/s")
START_SECONDS = 30.0

_CONFIG = """\
version = 2
root = "{store}"
state = "{state}/containerd"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  # Root may lack CAP_SYS_RESOURCE (a container, a CI machine); every sandbox would fail without this.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{state}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{state}/net.d"
"""


@dataclass(frozen=True)
class Containerd:
    """The daemon of one node: `state` goes with the cluster, `store` stays."""

    state: Path
    store: Path
    cni: Path

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.state / "containerd.sock"

    @property
    def log(self) -> Path:
        """Its log."""
        return self.state / "containerd.log"

    def start(self, name: str, *, network: Path | None, kubernetes: bool = True) -> Process:
        """Start it and return once it answers; without `kubernetes` it only keeps images."""
        self.state.mkdir(parents=True, exist_ok=True)
        self.store.mkdir(parents=True, exist_ok=True)
        config = self.state / "containerd.toml"
        config.write_text(self._config(kubernetes=kubernetes))
        process = processes.start(name, ["containerd", "--config", config], log=self.log, network=network)
        processes.wait_until(
            self._answers, seconds=START_SECONDS, processes=[(process, self.log)], what=f"{name} to answer"
        )
        return process

    def ctr(self, *arguments: str, stdin: IO[bytes] | None = None) -> str:
        """Run containerd's own client in the namespace of Kubernetes.

        Raises:
            CommandError: it exited non-zero.
        """
        done = subprocess.run(self.command(*arguments), stdin=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        """The client's command line."""
        return ["ctr", "--address", str(self.socket), "--namespace", NAMESPACE, *arguments]

    @contextmanager
    def alone(self) -> Iterator["Containerd"]:
        """A daemon on the same store without a cluster, to look after the images."""
        with tempfile.TemporaryDirectory(prefix="wenxin-store-") as folder:
            keeper = replace(self, state=Path(folder))
            process = keeper.start("containerd (image store)", network=None, kubernetes=False)
            try:
                yield keeper
            finally:
                process.stop()
                mounts.undo_below(keeper.state)

    def forget_containers(self) -> None:
        """Leave nothing but images in the store. Containers of a dead cluster would greet the next one."""
        if not (self.store / "io.containerd.metadata.v1.bolt").exists():
            return
        with self.alone() as keeper:
            if containers := keeper.ctr("containers", "list", "--quiet").split():
                keeper.ctr("containers", "delete", *containers)
            for container in containers:
                self._shim_socket(container).unlink(missing_ok=True)
            for line in keeper.ctr("snapshots", "--snapshotter", self._snapshotter, "list").splitlines()[1:]:
                key, *_, kind = line.split()
                if kind == "Active":
                    keeper.ctr("snapshots", "--snapshotter", self._snapshotter, "remove", key)
            collect_garbage(keeper.command())

    def clone_store(self, target: Path) -> None:
        """Copy the store for another node by hard links: image files are only ever read, databases are copied."""
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", "--link", str(self.store), str(target)], check=True)
        for database in target.rglob("*.db"):
            data = database.read_bytes()
            database.unlink()
            database.write_bytes(data)

    def shims(self) -> list[int]:
        """Ids of the shim processes that belong to this daemon; they outlive it when it is killed."""
        return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and self._owns(each)]

    def _owns(self, entry: Path) -> bool:
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        shim = b"containerd-shim" in arguments[0].rpartition(b"/")[2]
        return shim and os.fsencode(self.socket) in arguments

    def _shim_socket(self, container: str) -> Path:
        """Where a container's shim listened: a fixed folder, and a name that containerd computes like this."""
        address = f"{self.socket}/{NAMESPACE}/{container}"
        return SHIM_SOCKETS / hashlib.sha256(os.fsencode(address)).hexdigest()

    def _answers(self) -> bool:
        return not subprocess.run(self.command("version"), capture_output=True, check=False).returncode

    def _config(self, *, kubernetes: bool) -> str:
        disabled = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
        if not kubernetes:
            disabled.append("io.containerd.grpc.v1.cri")
        return _CONFIG.format(
            store=self.store,
            state=self.state,
            socket=self.socket,
            disabled=json.dumps(disabled)[1:-1],
            pause=PAUSE_IMAGE,
            snapshotter=self._snapshotter,
            cni=self.cni,
        )

    @property
    def _snapshotter(self) -> str:
        """Overlay where the store's file system can carry one, else whole copies (a cache on another overlay)."""
        return "overlayfs" if _carries_overlay(self.store) else "native"


def _carries_overlay(folder: Path) -> bool:
    marker = folder / ".snapshotter"
    if not marker.exists():
        marker.write_text("overlayfs" if _can_mount_overlay(folder) else "native")
    return marker.read_text() == "overlayfs"


def _can_mount_overlay(folder: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        lower, upper, work, merged = (Path(scratch) / name for name in ("lower", "upper", "work", "merged"))
        for each in (lower, upper, work, merged):
            each.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "-o", options, "overlay", str(merged)], capture_output=True, check=False
        )
        if not mounted.returncode:
            subprocess.run(["umount", str(merged)], check=True)
        return not mounted.returncode
