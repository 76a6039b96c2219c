"""What stories and the demo do with a cluster, whatever kind it is.

cluster.apply(REPOSITORY / "examples" / "tiny.yaml", namespace="demo")
cluster.wait_condition("wenxindeployment/tiny", "Ready", namespace="demo", seconds=120)
with cluster.service("tiny", 8000, namespace="demo") as url:
    httpx.get(f"{url}/v1/models")
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from e2e.harness import images, paths, tools
from e2e.harness.backend import Backend
from e2e.harness.errors import CommandError, WaitError

POLL_SECONDS = 0.5
COMMAND_SECONDS = 120.0
Object = dict[str, Any]
T = TypeVar("T")


class Cluster:
    """A running cluster. Every method that talks to it raises CommandError when the API server says no."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    # -- the two clients -----------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, namespace: str | None = None, stdin: str | None = None) -> str:
        """Run kubectl as administrator; returns its standard output."""
        place = [f"--namespace={namespace}"] if namespace else []
        return self._run([*self.kubectl_command(), *place, *arguments], stdin=stdin)

    def helm(self, *arguments: str, namespace: str | None = None, seconds: float = 300.0) -> str:
        """Run Helm as administrator, with a home of its own; returns its standard output."""
        place = [f"--namespace={namespace}"] if namespace else []
        return self._run([str(tools.find(tools.HELM)), *place, *arguments], seconds=seconds)

    def kubectl_command(self) -> list[str]:
        """The program, for `inside` and `environment`."""
        return [str(tools.find_kubectl())]

    @property
    def environment(self) -> dict[str, str]:
        """What kubectl, Helm and other clients need."""
        home = {f"HELM_{kind}_HOME": str(paths.cache() / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        return os.environ | home | {"KUBECONFIG": str(self.backend.kubeconfig)}

    # -- objects -------------------------------------------------------------------------------------------------------

    def apply(self, what: Path | Object | Iterable[Object], *, namespace: str | None = None) -> str:
        """Apply a file, an object or several, server-side and with strict field validation."""
        common = ("apply", "--server-side", "--force-conflicts", "--validate=strict")
        if isinstance(what, Path):
            return self.kubectl(*common, f"--filename={what}", namespace=namespace)
        objects = [what] if isinstance(what, dict) else list(what)
        bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return self.kubectl(*common, "--filename=-", namespace=namespace, stdin=bundle)

    def find(self, name: str, *, namespace: str | None = None) -> Object | None:
        """The object KIND/NAME, or None."""
        text = self.kubectl("get", name, "--ignore-not-found", "--output=json", namespace=namespace)
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def get(self, name: str, *, namespace: str | None = None) -> Object:
        """The object KIND/NAME, which must exist."""
        found: Object = json.loads(self.kubectl("get", name, "--output=json", namespace=namespace))
        return found

    def list(self, kind: str, *, namespace: str | None = None, selector: str = "") -> list[Object]:
        """The objects of a kind, perhaps with a label selector."""
        text = self.kubectl("get", kind, f"--selector={selector}", "--output=json", namespace=namespace)
        items: list[Object] = json.loads(text)["items"]
        return items

    def delete(self, name: str, *, namespace: str | None = None, wait: bool = False) -> None:
        """Delete KIND/NAME if it exists."""
        self.kubectl("delete", name, "--ignore-not-found", f"--wait={str(wait).lower()}", namespace=namespace)

    def patch(
        self, name: str, change: Mapping[str, Any], *, namespace: str | None = None, subresource: str = ""
    ) -> None:
        """Merge a change into KIND/NAME."""
        more = [f"--subresource={subresource}"] if subresource else []
        self.kubectl("patch", name, "--type=merge", f"--patch={json.dumps(change)}", *more, namespace=namespace)

    @contextmanager
    def namespace(self, name: str, *, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A namespace for the length of the block; deleted at its end without waiting."""
        meta = {"name": name, "labels": dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        try:
            yield name
        finally:
            self.delete(f"namespace/{name}")

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait(
        self, check: Callable[[], T | None], *, seconds: float, what: str, about: str = "", namespace: str = ""
    ) -> T:
        """Poll until `check` returns something true, and return it.

        Args:
            check: a question; None, False, and empty mean not yet, and so does a refused command.
            seconds: how long to wait.
            what: what is waited for, in words.
            about: KIND/NAME to show when it does not come true.
            namespace: where `about` is.

        Raises:
            WaitError: with the object, the events and the pods of the namespace.
        """
        deadline = time.monotonic() + seconds
        reason = ""
        while True:
            try:
                if answer := check():
                    return answer
            except CommandError as error:
                reason = f"\nLast answer: {error}"
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        shown = self.explain(about, namespace) if about or namespace else ""
        raise WaitError(f"Waited {seconds:.0f} s for {what}.{reason}\n{shown}")

    def wait_condition(
        self, name: str, condition: str = "Ready", status: str = "True", *, namespace: str, seconds: float = 120.0
    ) -> Object:
        """Wait until a condition of KIND/NAME has a status that speaks of its newest generation; returns the object."""

        def check() -> Object | None:
            found = self.find(name, namespace=namespace)
            return found if found and condition_holds(found, condition, status) else None

        what = f"{name} to have condition {condition}={status}"
        return self.wait(check, seconds=seconds, what=what, about=name, namespace=namespace)

    def wait_gone(self, *names: str, namespace: str, seconds: float = 60.0) -> None:
        """Wait until none of KIND/NAME exists."""
        self.wait(
            lambda: all(self.find(name, namespace=namespace) is None for name in names),
            seconds=seconds,
            what=f"{', '.join(names)} to be gone",
            about=names[0],
            namespace=namespace,
        )

    def explain(self, name: str, namespace: str) -> str:
        """What a person would look at first: the object, the pods, the events, the ends of the pods' logs."""
        place = namespace or None
        parts = [self._shown("get", name, "--output=yaml", namespace=place)] if name else []
        parts += [self._shown("get", "pods", "--output=wide", namespace=place)]
        parts += [self._shown("get", "events", "--sort-by=.lastTimestamp", namespace=place)]
        pods = self._shown("get", "pods", "--output=name", namespace=place).split()[:4]
        logs = ("--all-containers", "--prefix", "--tail=15", "--ignore-errors")
        parts += [self._shown("logs", pod, *logs, namespace=place) for pod in pods if pod.startswith("pod/")]
        return "\n".join(part for part in parts if part.strip())

    # -- pods and services ---------------------------------------------------------------------------------------------

    def logs(self, pod: str, *, namespace: str, container: str = "", previous: bool = False) -> str:
        """A pod's log."""
        more = [f"--container={container}"] if container else []
        return self.kubectl("logs", pod, *more, f"--previous={str(previous).lower()}", namespace=namespace)

    def exec(self, pod: str, *command: str, namespace: str, container: str = "", stdin: str | None = None) -> str:
        """Run a command in a pod; returns its standard output."""
        more = ([f"--container={container}"] if container else []) + (["--stdin"] if stdin is not None else [])
        return self.kubectl("exec", pod, *more, "--", *command, namespace=namespace, stdin=stdin)

    @contextmanager
    def service(self, name: str, port: int, *, namespace: str) -> Iterator[str]:
        """The base URL of a Service, for what `backend.client` starts and for stories, which run there.

        It is the Service's own name where that can be reached, else a port-forward to one of its pods.
        """
        if self.backend.reaches_services:
            yield f"http://{name}.{namespace}.svc.cluster.local:{port}"
            return
        forward = ["port-forward", f"service/{name}", f":{port}", f"--namespace={namespace}"]
        command = self.backend.inside([*self.kubectl_command(), *forward])
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True) as child:
            try:
                yield f"http://127.0.0.1:{_forwarded_port(child)}"
            finally:
                child.terminate()

    # -- images --------------------------------------------------------------------------------------------------------

    def load_images(self) -> None:
        """Build our images and put them on every node; what is there already is not sent again."""
        for image in images.ours():
            self.backend.load(image)

    def _run(self, command: Sequence[str], *, stdin: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        shown = f"{Path(command[0]).name} {' '.join(command[1:])}"
        try:
            done = subprocess.run(
                self.backend.inside(command),
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                env=self.environment,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{shown}: no answer within {seconds:.0f} s") from error
        if done.returncode:
            raise CommandError(f"{shown}: {done.stderr.strip()}")
        return done.stdout

    def _shown(self, *arguments: str, namespace: str | None) -> str:
        try:
            return self.kubectl(*arguments, namespace=namespace)
        except CommandError as error:
            return str(error)


def condition_holds(found: Object, condition: str, status: str) -> bool:
    """A condition (or a status without observedGeneration) that was computed for an older spec does not count."""
    state = found.get("status", {})
    generation = found["metadata"].get("generation", 0)
    for each in state.get("conditions", []):
        if each["type"] == condition:
            observed = each.get("observedGeneration", state.get("observedGeneration", generation))
            return bool(each["status"] == status and observed >= generation)
    return False


def _forwarded_port(child: "subprocess.Popen[str]") -> int:
    assert child.stdout
    line = child.stdout.readline()
    if match := re.search(r"127\.0\.0\.1:(\d+)", line):
        return int(match[1])
    raise CommandError(f"kubectl port-forward did not start: {line}")
