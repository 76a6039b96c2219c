"""The harness's command line: `python -m e2e.harness --help`."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from e2e.harness import choice, demo, images, paths, tools
from e2e.harness.backend import Backend, Options
from e2e.harness.cluster import Cluster
from e2e.harness.errors import HarnessError
from e2e.harness.local import Local
from e2e.harness.progress import say

DESCRIPTION = """\
A real Kubernetes for the user stories and the demo, with or without Docker.

  local     everything on this machine, in a network namespace of its own; needs root, Go 1.26 and some Debian packages,
            which are named if they are missing. The first time Kubernetes is compiled (about ten minutes).
  kind      Kubernetes in Docker
  existing  the cluster of $KUBECONFIG, used as it is and never removed

The kind is chosen by --backend or $WENXIN_BACKEND; auto means kind where a Docker daemon answers, else local.
What is slow to make is kept in $WENXIN_CACHE (by default ~/.cache/wenxin-operator).
"""
EPILOG = """\
examples:
  python -m e2e.harness up --nodes 2 --gpus 8     a cluster of two nodes with eight pretended GPUs each
  python -m e2e.harness images                    build our images and load them
  python -m e2e.harness kubectl get pods -A       kubectl as administrator; everything after kubectl is its own
  python -m e2e.harness shell                     a shell with kubectl, helm and http://SERVICE.NAMESPACE.svc
  python -m e2e.harness test -k drift             the user stories, or some; options of pytest are passed on
  python -m e2e.harness demo                      from nothing to a streamed answer
  python -m e2e.harness down                      leaves no process, mount, namespace or control group
"""


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand; errors of the harness are one message without a traceback."""
    try:
        return _dispatch(list(arguments))
    except HarnessError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] in (["kubectl"], ["helm"]):  # their options are not ours to parse
        program = tools.find_kubectl() if arguments[0] == "kubectl" else tools.find(tools.HELM)
        backend = choice.backend()
        _become(backend.inside([str(program), *arguments[1:]]), Cluster(backend).environment)
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.verb != "test":
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if options.verb == "prepare":
        return prepare(options.what)
    backend = choice.backend(options.backend)
    if options.verb == "test":
        return run_stories(backend, _wish(options), others, keep=options.keep)
    _run(options, backend)
    return 0


def _run(options: argparse.Namespace, backend: Backend) -> None:
    match options.verb:
        case "up":
            backend.up(_wish(options))
            say("Next: python -m e2e.harness shell")
        case "down":
            backend.down()
        case "status":
            print(backend.status())
        case "shell":
            say(f"kubectl and helm see the {backend.kind} cluster; leave with exit.")
            path = {"PATH": f"{_programs()}:{os.environ['PATH']}"}
            _become(backend.client([os.environ.get("SHELL", "/bin/bash")]), Cluster(backend).environment | path)
        case "images":
            load_images(backend)
        case "demo":
            demo.run(backend, _wish(options))


def _wish(options: argparse.Namespace) -> Options:
    return Options(options.nodes, options.gpus, options.gpu_product)


def prepare(what: Sequence[str]) -> int:
    """Build in advance what is slow, each once per machine."""
    wanted = set(what) or {"tools", "images"}
    chosen = tools.ALL if "tools" in wanted else (tools.KUBE,) if "kube" in wanted else ()
    for tool in chosen:
        tools.binary(tool)
    if "images" in wanted:
        backend = choice.backend()
        if isinstance(backend, Local):
            load_images(backend)  # into the store of the next cluster, which takes the longest
        else:
            images.ours()
    return 0


def load_images(backend: Backend) -> None:
    """Build our images and put them on the nodes, or into the store of the next cluster."""
    Cluster(backend).load_images()


def run_stories(backend: Backend, wish: Options, pytest: list[str], *, keep: bool) -> int:
    """Run pytest where Services can be reached; a cluster that was brought up for it is removed at the end."""
    ours = not backend.running()
    try:
        backend.up(wish)
        load_images(backend)
        paths_given = any(Path(each.partition("::")[0]).exists() for each in pytest)
        command = [sys.executable, "-m", "pytest", *([] if paths_given else ["e2e/stories"]), *pytest]
        os.environ[choice.BACKEND_VARIABLE] = backend.kind
        return _call(backend, command)
    finally:
        if ours and not keep:
            backend.down()


def _call(backend: Backend, command: Sequence[str]) -> int:
    return subprocess.run(backend.client(command), cwd=paths.REPOSITORY, check=False).returncode


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process by a command that sees the cluster."""
    os.execvpe(command[0], command, environment)  # noqa: S606 - the caller's own shell, or a pinned client


def _programs() -> Path:
    """A folder with just the two clients."""
    folder = paths.cache() / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in (("kubectl", tools.find_kubectl()), ("helm", tools.find(tools.HELM))):
        link = folder / f".{name}.{os.getpid()}"
        link.symlink_to(program)
        link.replace(folder / name)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m e2e.harness",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--backend", choices=choice.KINDS, help="kind of cluster (default: $WENXIN_BACKEND or auto)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, parents=parents, allow_abbrev=False)

    verb("up", "Make a cluster, or do nothing when one is up.", which, _size(nodes=1))
    verb("down", "Remove the cluster that `up` made; safe to repeat.", which)
    verb("status", "Show processes and nodes.", which)
    verb("kubectl", "Run kubectl as administrator; all further arguments are kubectl's.")
    verb("helm", "Run Helm as administrator; all further arguments are Helm's.")
    verb("shell", "Open a shell inside the cluster's network.", which)
    verb("images", "Build our images and load them into the cluster, or into the next one's store.", which)
    ahead = verb("prepare", "Build in advance what is slow; nothing is started.")
    ahead.add_argument("what", nargs="*", metavar="kube|tools|images", help="default: tools and images")
    test = verb("test", "Run the user stories; unknown options and paths go to pytest.", which, _size(nodes=2))
    test.add_argument("--keep", action="store_true", help="leave the cluster up that was made for the stories")
    verb("demo", "Cluster, images, chart, examples/tiny.yaml, a streamed answer.", which, _size(nodes=1))
    return parser


def _size(nodes: int) -> argparse.ArgumentParser:
    """The options that say how large a cluster is made; the stories need two nodes, a person who looks around one."""
    size = argparse.ArgumentParser(add_help=False)
    size.add_argument("--nodes", type=int, choices=(1, 2), default=nodes, help=f"number of nodes (default: {nodes})")
    size.add_argument("--gpus", type=int, default=8, help="pretended nvidia.com/gpu per node (default: 8)")
    size.add_argument("--gpu-product", default=Options.product, help="value of the label nvidia.com/gpu.product")
    return size


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
