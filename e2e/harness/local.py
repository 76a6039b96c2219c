"""A whole cluster on this machine, in a network namespace of its own, without Docker."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from e2e.harness import components, images, importer, node, paths, prerequisites, processes, storage, teardown, tools
from e2e.harness.backend import Options
from e2e.harness.errors import CommandError, HarnessError
from e2e.harness.lock import exclusive
from e2e.harness.network import NODE_ADDRESSES
from e2e.harness.node import Node
from e2e.harness.oci import Image
from e2e.harness.processes import INSIDE, Process
from e2e.harness.progress import say, step
from e2e.harness.site import Site

READY_SECONDS = 120.0
CONTEXT = "wenxin-e2e"


class Local:
    """The backend that needs root and Debian's containerd, runc and CNI plugins, but no Docker."""

    kind = "local"
    reaches_services = True
    shares_volumes = True

    def __init__(self, name: str = "e2e") -> None:
        self.site = Site(name)

    @property
    def kubeconfig(self) -> Path:
        """Reaches the API server from inside the namespace only."""
        return self.site.layout.kubeconfig("admin")

    def running(self) -> bool:
        """True when `up` came to its end, every process of it lives, and the API server answers."""
        complete = self.site.options() is not None and self.site.is_complete
        return complete and all(p.alive for p in self.site.ledger.newest().values()) and self._get_raw("/readyz")

    def up(self, options: Options) -> None:
        """Make the cluster; what a crashed one left is removed first."""
        _refuse_inside("up")
        prerequisites.check()
        with self._lock():
            present = self.site.options()
            if present and self.running():
                say(f"• A local cluster is up already, with {present}.")
                return
            if present:
                say("• Removing what an earlier cluster left.")
                teardown.remove(self.site)
            self._prepare_stores(options)
            self.site.claim(options)
            with step(f"Starting Kubernetes {tools.kubernetes_version()} with {options.nodes} node(s)"):
                self._start(options)
            self.site.complete()

    def down(self) -> None:
        """Remove the cluster; containerd's stores stay in the cache."""
        _refuse_inside("down")
        if self.site.options() is None:
            say("• No local cluster is up.")
            return
        with self._lock(), step("Removing the local cluster"):
            teardown.remove(self.site)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command in the cluster's network."""
        return list(command) if INSIDE in os.environ else self.site.network.inside(*command)

    def client(self, command: Sequence[str]) -> list[str]:
        """The command in the cluster's network, with Service names."""
        if INSIDE in os.environ:
            return list(command)
        return self.site.network.with_names(self.site.resolver, command)

    def load(self, image: Image) -> None:
        """Import into each node's containerd; without a cluster into the first node's store."""
        options = self.site.options()
        if options is None:
            first = self.site.nodes(1)[0]
            with self._lock(), first.containerd.alone() as keeper:
                importer.load(keeper.command(), image, node="the image store")
            return
        for each in self.site.nodes(options.nodes):
            importer.load(each.containerd.command(), image, node=each.name)

    def status(self) -> str:
        """Each process with its id, and the nodes."""
        options = self.site.options()
        if options is None:
            return "No local cluster is up. Start one: python -m e2e.harness up"
        listing = [
            f"  {'running' if p.alive else 'DEAD':8} {p.pid:8} {p.name}" for p in self.site.ledger.newest().values()
        ]
        listed = self._try("get", "nodes", "--output=wide") or "The API server does not answer.\n"
        return "\n".join(
            [
                f"Local cluster in network namespace {self.site.network.name}, {options}",
                *listing,
                listed.rstrip(),
                f"Logs: {self.site.layout.directory}/log",
            ]
        )

    def stop(self, name: str, *, grace: float = 5.0) -> None:
        """End one process, such as kubelet-node1, for a story about failure; SIGKILL follows after `grace` seconds."""
        self._process(name).stop(grace=grace)

    def start(self, name: str) -> None:
        """Start a process again that was stopped or has died. A kubelet forgets GPUs that no plugin vouches for."""
        began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.start_process(name, self._process(name).command)
        options = self.site.options()
        node_name = name.removeprefix("kubelet-")
        if options and node_name != name:
            self._wait(lambda: self._node_is_ready(node_name, since=began), f"{node_name} to be ready")
            self.pretend_gpus(node_name, options)

    def _prepare_stores(self, options: Options) -> None:
        """Put what every pod needs into the first store, and give the second node a copy of it.

        Our own images are imported before the copy is made: hard links cost nothing, another import a minute.
        """
        first, *others = self.site.nodes(options.nodes)
        wanted = [images.pause(), *(images.ours() if others else ())]
        with first.containerd.alone() as keeper:
            for image in wanted:
                importer.load(keeper.command(), image, node="the image store")
        for other in others:
            first.containerd.clone_store(other.store)

    def _start(self, options: Options) -> None:
        site, layout = self.site, self.site.layout
        site.network.create(options.nodes)
        site.resolver.write_text(
            f"nameserver {NODE_ADDRESSES[0]}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n"
        )
        members = site.nodes(options.nodes)
        site.group.create([member.name for member in members])
        if teardown.KUBELET_FOLDER.exists():
            (site.directory / teardown.KUBELET_EXISTED).touch()
        self._write_credentials(members)
        for member in members:
            member.write_configuration()
            name = f"containerd-{member.name}"
            site.ledger.add(member.containerd.start(name, network=site.network.path))
        self.start_process("etcd", components.etcd(layout))
        self.start_process("kube-apiserver", components.apiserver(layout))
        self._wait(lambda: self._get_raw("/readyz"), "the API server")
        self.start_process("kube-controller-manager", components.controller_manager(layout))
        self.start_process("kube-scheduler", components.scheduler(layout))
        for member in members:
            self.start_process(f"kubelet-{member.name}", member.kubelet())
        masquerade = not site.network.filters_bridged_packets
        self.start_process("kube-proxy", node.kube_proxy(layout, masquerade=masquerade))
        self.start_process("coredns", node.coredns(layout))
        self.start_process("storage", storage.command(self.kubeconfig, site.volumes))
        self._kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(storage.CLASS))
        for member in members:
            self._wait(lambda: self._node_is_ready(member.name), f"{member.name} to be ready")  # noqa: B023 - called at once
            self.pretend_gpus(member.name, options)
        self._wait(lambda: self._get_raw("/api/v1/namespaces/default/serviceaccounts/default"), "the service account")

    def start_process(self, name: str, command: Sequence[str]) -> Process:
        """Start a component in the namespace and record it."""
        process = processes.start(name, command, log=self.site.layout.log(name), network=self.site.network.path)
        self.site.ledger.add(process)
        return process

    def pretend_gpus(self, name: str, options: Options) -> None:
        """Give a node GPUs that nothing computes on; also needed after a restart of its kubelet."""
        if not options.gpus:
            return
        capacity = {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(options.gpus)}
        self._kubectl("patch", "node", name, "--subresource=status", "--type=json", f"--patch={json.dumps([capacity])}")
        self._kubectl("label", "node", name, "--overwrite", f"nvidia.com/gpu.product={options.product}")
        self._wait(lambda: self._allocatable(name) == str(options.gpus), f"{name} to offer {options.gpus} GPUs")

    def _process(self, name: str) -> Process:
        known = self.site.ledger.newest()
        if name not in known:
            raise HarnessError(f"There is no process {name}: {', '.join(known)}")
        return known[name]

    def _write_credentials(self, members: list[Node]) -> None:
        layout = self.site.layout
        authority = components.write_credentials(layout, CONTEXT)
        authority.issue("proxy", "system:kube-proxy")
        components.write_kubeconfig(layout, authority, "proxy", CONTEXT)
        for member in members:
            user = f"system:node:{member.name}"
            authority.issue(member.name, user, group="system:nodes")
            hosts = [member.name, member.address]
            authority.issue(f"{member.name}-server", user, group="system:nodes", usage="server", hosts=hosts)
            components.write_kubeconfig(layout, authority, member.name, CONTEXT)

    def _node_is_ready(self, name: str, *, since: str = "") -> bool:
        """True when a kubelet that was started after `since` says so; times in this form sort as text."""
        ready = '{.status.conditions[?(@.type=="Ready")]'
        answer = self._try("get", "node", name, f"--output=jsonpath={ready}.status}} {ready}.lastHeartbeatTime}}")
        status, _, heartbeat = answer.partition(" ")
        return status == "True" and heartbeat > since

    def _allocatable(self, name: str) -> str:
        return self._try("get", "node", name, r"--output=jsonpath={.status.allocatable.nvidia\.com/gpu}")

    def _get_raw(self, path: str) -> bool:
        return bool(self._try("get", "--raw", path))

    def _try(self, *arguments: str) -> str:
        try:
            return self._kubectl(*arguments)
        except CommandError:
            return ""

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        command = [str(tools.component("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(self.inside(command), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _wait(self, check: Callable[[], bool], what: str) -> None:
        running = self.site.ledger.newest().values()
        watched = [(p, self.site.layout.log(p.name)) for p in running if "containerd" not in p.name]
        processes.wait_until(check, seconds=READY_SECONDS, processes=watched, what=what)

    def _lock(self) -> AbstractContextManager[None]:
        """One `up`, `down` or import without a cluster at a time."""
        what = "it starts or stops the cluster, or loads an image"
        return exclusive(paths.cache() / f"cluster-{self.site.name}.lock", what=what)


def _refuse_inside(verb: str) -> None:
    if INSIDE in os.environ:
        raise HarnessError(f"`{verb}` cannot run inside the cluster's network; leave the shell first.")
