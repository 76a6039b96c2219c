"""`kubectl wenxin cache`: what a deployment's answer cache holds and does, and its end."""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wenxin_operator import pods
from wenxin_operator.cli import execute, forward
from wenxin_operator.cli.asking import Connection, add_place, connected
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import COMPONENT_RUNTIME, LABEL_COMPONENT, LABEL_DEPLOYMENT, POD, WENXIN_DEPLOYMENT, Raw
from wenxin_operator.plan.flags import PORT

_RESULTS = re.compile(r'^wenxin_answer_cache_requests_total\{result="(\w+)"\} (\S+)$', re.MULTILINE)
_BREAKER = re.compile(r"^wenxin_answer_cache_breaker_open (\S+)$", re.MULTILINE)
_COMMAND = ("wenxin-runtime", "cache")


@dataclass(frozen=True, slots=True)
class Requests:
    """What a deployment's pods have counted since each of them started.

    Attributes:
        asked: Pods that were asked.
        answered: Those of them that answered.
        results: Requests by where their answer came from: hit, shared, miss, bypass.
        without: Names of the pods that leave Redis alone, because it failed them.
    """

    asked: int
    answered: int
    results: Mapping[str, int]
    without: tuple[str, ...]

    @property
    def repeated(self) -> float:
        """Share of the requests that needed no generation of their own."""
        total = sum(self.results.values())
        return (self.results.get("hit", 0) + self.results.get("shared", 0)) / total if total else 0.0


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    text = "what the answer cache of a deployment holds, and its flush (needs the rights to exec and to port-forward)"
    command = commands.add_parser("cache", help=text, description=text)
    command.add_argument("action", choices=("stats", "flush"))
    command.add_argument("name", metavar="DEPLOYMENT", help="a WenxinDeployment with spec.answerCache")
    command.add_argument(
        "--all", action="store_true", help="the answers of all models in its Redis, not of this deployment's alone"
    )
    command.add_argument("-y", "--yes", action="store_true", help="flush without asking")
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")
    add_place(command)


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Run it: 0 when all is well, 1 when a pod gets no answer from Redis, or nobody agreed to a flush.

    Raises:
        OperatorError: the cluster can not be asked, there is no such deployment, or it has no answer cache.
    """
    return asyncio.run(_run(options, environment))


async def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    async with connected(options, environment) as connection:
        serving = await _serving(connection, options.name)
        if options.action == "flush":
            return await _flush(connection, serving[0], options)
        stored = await _in_pod(connection, serving[0], "stats", all_models=options.all)
        requests = await _requests(connection, serving)
    shown = json.dumps(_fields(stored, requests), indent=2) if options.output == "json" else _text(stored, requests)
    print(shown)
    return 1 if requests.without else 0


async def _serving(connection: Connection, name: str) -> list[Raw]:
    """Its pods that serve.

    Raises:
        OperatorError: there is none.
    """
    found = await connection.some(WENXIN_DEPLOYMENT, name)
    if not found:
        raise OperatorError(f"no WenxinDeployment {name}")
    if not (found[0].get("spec") or {}).get("answerCache"):
        raise OperatorError(f"WenxinDeployment {name} has no spec.answerCache")
    listed = (await connection.cluster.list(POD, connection.namespace)).items
    serving = [pod for pod in listed if _serves(pod, name)]
    if not serving:
        raise OperatorError(f"no pod of WenxinDeployment {name} is ready: Redis is asked from there")
    return serving


def _serves(pod: Raw, name: str) -> bool:
    labels, seen = pod["metadata"].get("labels") or {}, pods.see(pod)
    ours = labels.get(LABEL_COMPONENT) == COMPONENT_RUNTIME and labels.get(LABEL_DEPLOYMENT) == name
    return ours and seen.leads and seen.ready


async def _flush(connection: Connection, pod: Raw, options: argparse.Namespace) -> int:
    whose = "all models in its Redis" if options.all else f"the model of {options.name}"
    if not options.yes and not _agreed(f"Flush the answers of {whose}? They are generated anew when asked for. [y/N] "):
        print("nothing was flushed", file=sys.stderr)
        return 1
    done = await _in_pod(connection, pod, "flush", all_models=options.all)
    print(json.dumps(done) if options.output == "json" else f"{done['entries']:,} answers of {whose} flushed")
    return 0


def _agreed(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _in_pod(connection: Connection, pod: Raw, action: str, *, all_models: bool) -> Raw:
    words = [
        *_COMMAND,
        action,
        "-o",
        "json",
        *(["--all"] if all_models else []),
        *(["--yes"] if action == "flush" else []),
    ]
    metadata = pod["metadata"]
    output = await execute.output_of(
        connection.session, connection.endpoint, metadata["namespace"], metadata["name"], words, _tell
    )
    if (told := pods.result(output)) is None:
        raise OperatorError(f"pod {metadata['name']}: its runtime does not say what its answer cache holds")
    return told


def _tell(words: str) -> None:
    print(words, end="", file=sys.stderr, flush=True)


async def _requests(connection: Connection, serving: Sequence[Raw]) -> Requests:
    found = await asyncio.gather(*(_metrics(connection, pod) for pod in serving))
    results: dict[str, int] = {}
    for text in found:
        for result, count in _RESULTS.findall(text):
            results[result] = results.get(result, 0) + int(float(count))
    named = zip((pod["metadata"]["name"] for pod in serving), found, strict=True)
    without = tuple(name for name, text in named if "1.0" in _BREAKER.findall(text))
    return Requests(len(serving), sum(map(bool, found)), results, without)


async def _metrics(connection: Connection, pod: Raw) -> str:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    try:
        body = await forward.get(connection.session, connection.endpoint, namespace, name, PORT, "/metrics")
    except OperatorError as error:
        print(f"kubectl-wenxin: {error}", file=sys.stderr)
        return ""
    return body.decode()


def _fields(stored: Raw, requests: Requests) -> Raw:
    return {
        **stored,
        "pods": {"asked": requests.asked, "answered": requests.answered, "withoutRedis": list(requests.without)},
        "requests": {**requests.results, "repeated": round(requests.repeated, 4)},
    }


def _text(stored: Raw, requests: Requests) -> str:
    return "\n".join(_lines(stored, requests))


def _lines(stored: Raw, requests: Requests) -> Iterator[str]:
    yield f"answers   {stored['entries']:,}, {_size(stored['bytes'])}"
    memory: dict[str, Any] | None = stored.get("memory")
    if memory:
        limit = f" of {_size(memory['limit'])}" if memory["limit"] else ""
        yield f"redis     {_size(memory['used'])}{limit} used, {memory['evicted']:,} evicted ({memory['policy']})"
    counts = ", ".join(f"{count:,} {result}" for result, count in requests.results.items())
    counted = f"in {requests.answered} of {requests.asked} pods"
    yield f"requests  {requests.repeated:.0%} repeated: {counts or 'none'}, {counted}"
    if requests.without:
        yield f"without   {', '.join(requests.without)}: Redis does not answer, and is left alone for a while"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
