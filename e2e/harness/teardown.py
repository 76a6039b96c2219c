"""Removes a local cluster, whole or in pieces, and says what it could not remove. Every step is safe to repeat."""

import contextlib
import shutil
import signal
from pathlib import Path

from e2e.harness import mounts
from e2e.harness.containerd import SHIM_SOCKETS, Containerd
from e2e.harness.errors import HarnessError
from e2e.harness.processes import Process, start_time
from e2e.harness.site import Site

# Pods would be drained by a polite end of these; the whole cluster goes, so nothing waits for it.
GRACE_SECONDS = {"kube-apiserver": 0.5, "etcd": 2.0}
KUBELET_FOLDER = Path("/var/lib/kubelet")  # the kubelet keeps its device plugins' socket here, whatever its root is
# containerd makes these, whatever its configuration says; only empty ones go.
CONTAINERD_FOLDERS = (SHIM_SOCKETS, SHIM_SOCKETS.parent)
KUBELET_EXISTED = "kubelet-folder-existed"


def remove(site: Site) -> None:
    """End the processes, undo the mounts, and delete namespace, control groups and files."""
    for process in _stop_order(site.ledger.read()):
        process.stop(grace=GRACE_SECONDS.get(process.name, 5.0))
    site.group.kill()
    stores = [node.containerd for node in site.nodes()]
    for containerd in stores:
        _end_shims(containerd)
    mounts.undo_below(site.directory)
    first, *others = stores
    first.forget_containers()
    for containerd in others:  # copies, made anew with each cluster
        shutil.rmtree(containerd.store, ignore_errors=True)
    site.network.delete()
    site.group.remove()
    if not (site.directory / KUBELET_EXISTED).exists():
        shutil.rmtree(KUBELET_FOLDER, ignore_errors=True)
    shutil.rmtree(site.directory)
    for folder in CONTAINERD_FOLDERS:
        with contextlib.suppress(OSError):  # another containerd uses it, or it is gone
            folder.rmdir()
    if left := remains(site):
        raise HarnessError("These could not be removed:\n" + "\n".join(f"  {each}" for each in left))


def remains(site: Site) -> list[str]:
    """Whatever a cluster could leave behind and is still there."""
    found = [f"process {p.pid} ({p.name})" for p in site.ledger.read() if p.alive]
    for node in site.nodes():
        found += [f"container shim {pid} of {node.name}" for pid in node.containerd.shims()]
    found += [f"mount {point}" for point in mounts.below(site.directory)]
    found += [f"control group {path}" for path in site.group.remains()]
    if site.network.exists:
        found.append(f"network namespace {site.network.name}")
    if site.directory.exists():
        found.append(f"folder {site.directory}")
    return found


def _stop_order(started: list[Process]) -> list[Process]:
    """Newest first: the kubelets before what they report to, the API server before its store, containerd last."""
    newest_first = started[::-1]
    return sorted(newest_first, key=lambda process: process.name.startswith("containerd"))


def _end_shims(containerd: Containerd) -> None:
    for pid in containerd.shims():
        started = start_time(pid)
        if started is not None:
            Process("container shim", pid, started).stop(first=signal.SIGKILL)
