"""etcd and a real API server on loopback, without nodes: what tests of the operator talk to.

    with ControlPlane() as cp:
        subprocess.run([..., "--kubeconfig", cp.kubeconfig])

It needs no root. Whatever ends the thread that started it ends it too.
"""

import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.harness import components, tools
from e2e.harness.api_client import answers, connect
from e2e.harness.components import ControlPlaneLayout
from e2e.harness.errors import CommandError, ProcessError
from e2e.harness.processes import Process, start, wait_until

START_SECONDS = 60.0
PORT_ATTEMPTS = 3  # another program may take a free port between our look and the server's bind
CONTEXT = "wenxin-control-plane"


class ControlPlane:
    """A context manager; `start` and `stop` exist for fixtures that outlive one block.

    Args:
        controllers: controllers to run beside it, such as "garbage-collector-controller"; none by default.
        apiserver_flags: more flags for the API server.
        scheduler: whether pods are given to nodes; a test makes those itself, for no kubelet does.
        pretended_nodes: how many nodes there are with kwok for a kubelet; all others are then in a hurry.

    Attributes:
        kubeconfig: an administrator's kubeconfig.
        server_url: https://127.0.0.1:PORT.
    """

    def __init__(
        self,
        *,
        controllers: Sequence[str] = (),
        apiserver_flags: Sequence[str] = (),
        scheduler: bool = False,
        pretended_nodes: int = 0,
    ) -> None:
        self._controllers, self._scheduler, self._nodes = tuple(controllers), scheduler, pretended_nodes
        # New nodes are tainted until a controller, which is not there, has seen them ready.
        untainted = ("--disable-admission-plugins=TaintNodesByCondition",) if pretended_nodes else ()
        self._flags = (*apiserver_flags, *untainted)
        self._layout = ControlPlaneLayout(Path())
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig."""
        return self._layout.kubeconfig("admin")

    @property
    def server_url(self) -> str:
        """Where the API server answers."""
        return self._layout.server

    @property
    def directory(self) -> Path:
        """Its temporary folder: `pki/` and `log/` lie in it."""
        return self._layout.directory

    def start(self) -> None:
        """Start everything and return once /readyz says ok (4 to 8 s on two busy cores)."""
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self._start_once()
            except ProcessError as error:
                self.stop()
                if attempt == PORT_ATTEMPTS or "address already in use" not in str(error):
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return

    def stop(self) -> None:
        """End everything, newest first, and remove the folder. Safe to repeat."""
        while self._running:
            process = self._running.pop()
            process.stop(grace=0.5 if process.name == "kube-apiserver" else 2.0)  # it would drain for a minute
        if self._layout.directory != Path():
            shutil.rmtree(self._layout.directory, ignore_errors=True)

    def stop_apiserver(self) -> None:
        """Take the API server away, so that a test can see what its clients do without it. The store stays."""
        server = next((p for p in self._running if p.name == "kube-apiserver"), None)
        if server:
            self._running.remove(server)
            server.stop(grace=0.5)

    def start_apiserver(self) -> None:
        """Start it, or bring it back on the same port with the same objects; returns once it is ready."""
        self._start("kube-apiserver", components.apiserver(self._layout, self._flags))
        self._wait_ready()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return its standard output.

        Raises:
            CommandError: it exited non-zero.
        """
        command = [str(tools.component("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise CommandError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _start_once(self) -> None:
        server, client, peer = _free_ports(3)
        folder = Path(tempfile.mkdtemp(prefix="wenxin-cp-"))
        self._layout = ControlPlaneLayout(folder, port=server, etcd_port=client, etcd_peer_port=peer)
        components.write_credentials(self._layout, CONTEXT)
        self._start("etcd", components.etcd(self._layout))
        self.start_apiserver()
        if self._controllers:
            command = components.controller_manager(self._layout, self._controllers)
            self._start("kube-controller-manager", [*command, *self._hurry])
        if self._scheduler:
            # On no port: it would be the same one for every control plane of this machine.
            self._start("kube-scheduler", components.scheduler(self._layout, "--secure-port=0", *self._hurry))
        if self._nodes:
            self._start("kwok", components.kwok(self._layout))
            self.kubectl("apply", "--filename=-", stdin=json.dumps(_pretended(self._nodes)))

    @property
    def _hurry(self) -> Sequence[str]:
        return components.IN_A_HURRY if self._nodes else ()

    def _start(self, name: str, command: Sequence[str]) -> None:
        process = start(name, command, log=self._layout.log(name), dies_with_parent=True)
        self._running.append(process)

    def _wait_ready(self) -> None:
        watched = [(p, self._layout.log(p.name)) for p in self._running]
        with connect(self.kubeconfig) as client:
            for path in ("/readyz", "/api/v1/namespaces/default"):
                wait_until(lambda: answers(client, path), seconds=START_SECONDS, processes=watched, what=path)  # noqa: B023 - called at once


def _pretended(count: int) -> dict[str, Any]:
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"pretended-{each}"}} for each in range(count)]
    return {"apiVersion": "v1", "kind": "List", "items": nodes}


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is chosen, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
