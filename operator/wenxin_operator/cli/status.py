"""`kubectl wenxin status`: how WenxinDeployments are, and why."""

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping

from wenxin_operator.cli.asking import add_place, connected
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import WENXIN_DEPLOYMENT, Raw
from wenxin_operator.observe import conditions_of


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    text = "how WenxinDeployments are, and why; exit code 1 when one is not Ready"
    command = commands.add_parser("status", help=text, description=text)
    command.add_argument("name", metavar="DEPLOYMENT", nargs="?", help="one of them (default: all of the namespace)")
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")
    add_place(command, everywhere=True)


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Run it: 0 when all that was asked for is Ready, 1 when something is not.

    Raises:
        OperatorError: the cluster can not be asked, or nothing is there.
    """
    found = asyncio.run(_found(options, environment))
    if not found:
        raise OperatorError(f"no WenxinDeployment {options.name or 'here'}")
    shown = json.dumps(list(map(fields, found)), indent=2) if options.output == "json" else None
    print(shown or "\n\n".join(map(render, found)))
    return 0 if all(map(is_ready, found)) else 1


async def _found(options: argparse.Namespace, environment: Mapping[str, str]) -> list[Raw]:
    async with connected(options, environment) as connection:
        return await connection.some(WENXIN_DEPLOYMENT, options.name)


def fields(resource: Raw) -> Raw:
    """The same for programs."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "ready": is_ready(resource),
        "wantedReplicas": _wanted(resource),
        "replicas": status.get("replicas", 0),
        "readyReplicas": status.get("readyReplicas", 0),
        "gpus": status.get("gpus", 0),
        "endpoint": status.get("endpoint"),
        "model": status.get("model"),
        "conditions": list(conditions_of(resource).values()),
    }


def is_ready(resource: Raw) -> bool:
    """Whether the newest spec is what serves."""
    ready = conditions_of(resource).get("Ready", {})
    return ready.get("status") == "True" and ready.get("observedGeneration") == resource["metadata"].get("generation")


def render(resource: Raw) -> str:
    """Some lines: what it is, what it serves, and each condition with its reason and message."""
    return "\n".join(_lines(resource))


def _lines(resource: Raw) -> Iterator[str]:
    metadata, status = resource["metadata"], resource.get("status") or {}
    yield f"{metadata['namespace']}/{metadata['name']}: {status.get('readyReplicas', 0)} of {_wanted(resource)} ready"
    if not status:
        yield "  no status yet: does the operator run, and does it serve this namespace?"
        return
    if status.get("endpoint"):
        yield f"  endpoint  {status['endpoint']}"
    if model := _model(status.get("model") or {}, resource.get("spec") or {}):
        yield f"  model     {model}"
    conditions = conditions_of(resource)
    if any(each.get("observedGeneration") != metadata.get("generation") for each in conditions.values()):
        yield "  the operator has yet to see the newest spec; what follows is of an older one"
    width = max(map(len, conditions), default=0)
    for name, each in conditions.items():
        yield f"  {name:<{width}}  {each['status']:<7}  {each.get('reason', '')}: {each.get('message', '')}"


def _wanted(resource: Raw) -> int:
    return int((resource.get("spec") or {}).get("replicas", 1))


def _model(model: Raw, spec: Raw) -> str:
    parts = [model.get("name"), model.get("architecture")]
    if model.get("parameters"):
        active = f" ({model['activeParameters']:,} active)" if model.get("activeParameters") else ""
        parts.append(f"{model['parameters']:,} parameters{active}")
    if spec.get("quantization", "none") != "none":
        parts.append(f"{spec['quantization']} weights")
    if model.get("contextLength"):
        parts.append(f"{model['contextLength']} tokens of context")
    if model.get("digest"):
        parts.append(str(model["digest"])[:19])
    return ", ".join(str(part) for part in parts if part)
