"""From nothing to a streamed answer: the first thing that a newcomer sees of the project."""

import json
import subprocess
import sys
import time
from typing import Any

from e2e.harness import images, paths
from e2e.harness.backend import Backend, Options
from e2e.harness.cluster import Cluster, Object
from e2e.harness.errors import CommandError, HarnessError
from e2e.harness.progress import say, step

CHART = paths.REPOSITORY / "charts" / "wenxin-operator"
EXAMPLE = paths.REPOSITORY / "examples" / "tiny.yaml"
NAMESPACE = "wenxin-system"
RELEASE = "wenxin-operator"
DEPLOYMENT = "tiny"
QUESTION = "What is the capital of China?"
READY_SECONDS = 300.0
ANSWER_SECONDS = 120


def run(backend: Backend, options: Options) -> None:
    """Bring everything up, ask once, and say how to go on."""
    began = time.monotonic()
    backend.up(options)
    cluster = Cluster(backend)
    cluster.load_images()
    with step("Installing the operator with Helm"):
        install(cluster)
    with step(f"Applying {EXAMPLE.relative_to(paths.REPOSITORY)}"):
        cluster.apply(EXAMPLE, namespace="default")
    with step(f"Waiting until WenxinDeployment {DEPLOYMENT} is Ready"):
        wait_ready(cluster)
    ask(cluster)
    say(f"\nAll of it took {time.monotonic() - began:.0f} s. {how_to_go_on()}")


def install(cluster: Cluster, *more: str) -> None:
    """Install or upgrade the chart with the images that were just loaded, and `more` values such as workers=2."""
    values = [
        "image.repository=localhost/wenxin/operator",
        "image.tag=dev",
        "runtimeImage=localhost/wenxin/runtime:dev",
        "redisImage=localhost/wenxin/redis:dev",
    ]
    chosen = [f"--set={value}" for value in (*values, *more)]
    # The tag stays while the content changes; the digest in an annotation makes Helm replace the pods.
    chosen.append(f"--set-string=podAnnotations.image={images.operator().digest}")
    flags = ["--create-namespace", "--wait", "--timeout=2m", *chosen]
    try:
        cluster.helm("upgrade", "--install", RELEASE, str(CHART), *flags, namespace=NAMESPACE)
    except CommandError as error:
        raise HarnessError(f"{error}\n{cluster.explain('', NAMESPACE)}") from error


def wait_ready(cluster: Cluster) -> None:
    """Print each new condition while it comes true."""
    seen: set[str] = set()

    def ready() -> Object | None:
        found = cluster.find(f"wenxindeployment/{DEPLOYMENT}", namespace="default")
        for line in _conditions(found or {}):
            if line not in seen:
                seen.add(line)
                say(f"    {line}")
        return found if any(line.startswith("Ready=True") for line in _conditions(found or {})) else None

    name = f"wenxindeployment/{DEPLOYMENT}"
    cluster.wait(ready, seconds=READY_SECONDS, what=f"{name} to be Ready", about=name, namespace="default")


def ask(cluster: Cluster) -> None:
    """Ask one question through the Service with curl, and print the answer as it streams in."""
    body = {"model": DEPLOYMENT, "stream": True, "max_tokens": 48, "messages": [{"role": "user", "content": QUESTION}]}
    with cluster.service(DEPLOYMENT, 8000, namespace="default") as url:
        quiet = ["--no-buffer", "--silent", "--show-error", "--fail-with-body", "--max-time", str(ANSWER_SECONDS)]
        content = ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        command = ["curl", *quiet, f"{url}/v1/chat/completions", *content]
        shown = f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        say(f"\n$ curl -N {url}/v1/chat/completions {shown}")
        say("(The weights are random, so the answer is babble; every step on its way is as for a real model.)\n")
        with subprocess.Popen(cluster.backend.client(command), stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            received = [line for line in child.stdout if not _print_delta(line)]
    if child.returncode or not any(line.startswith("data: [DONE]") for line in received):
        raise HarnessError(f"The answer did not end as it should: {''.join(received)}")


def how_to_go_on() -> str:
    """The last lines of the demo."""
    return """It is still up:
  python -m e2e.harness kubectl get wd,wm,pods         what there is (with .venv/bin/python)
  python -m e2e.harness shell                          kubectl, helm and the Service, from a shell
  make demo-down                                       remove everything"""


def _print_delta(line: str) -> bool:
    """Print the text of one server-sent event; False for every other line."""
    if not line.startswith("data: {"):
        return False
    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
    for choice in event.get("choices", []):
        sys.stdout.write(choice.get("delta", {}).get("content") or "")
        sys.stdout.flush()
    return "error" not in event


def _conditions(found: Object) -> list[str]:
    conditions = found.get("status", {}).get("conditions", [])
    return [f"{c['type']}={c['status']} ({c.get('reason', '')}) {c.get('message', '')}".strip() for c in conditions]
