"""`kubectl wenxin plan -f FILE`: what an apply would lead to, by the operator's own code, without doing it."""

import argparse
import asyncio
import datetime as dt
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from wenxin_operator import changes, reconcile
from wenxin_operator.cli.asking import Connection, add_place, connected
from wenxin_operator.cli.plan_text import Planned, render
from wenxin_operator.cli.world import World, of_cluster, of_nothing
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import API_VERSION, WENXIN_DEPLOYMENT, WENXIN_MODEL, Key, Raw
from wenxin_operator.presets import PRESETS

_HELP = """\
Say what an apply of these files would lead to, by the operator's own code: whether the spec is accepted, which objects
would be made, changed and deleted, and whether pods would be replaced. Nothing is written.
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    command = commands.add_parser(
        "plan", help="what an apply of a file would do; exit code 1 if refused", description=_HELP
    )
    command.add_argument(
        "-f", "--filename", metavar="FILE", action="append", required=True, help="YAML or JSON; - is stdin; repeatable"
    )
    command.add_argument(
        "-o",
        "--output",
        choices=("text", "json", "yaml"),
        default="text",
        help="json: all of it; yaml: the objects that should exist",
    )
    command.add_argument("--offline", action="store_true", help="ask no cluster: as if it were empty")
    command.add_argument(
        "--assume", metavar="MODEL", choices=PRESETS, help="take weights that are not verified for this released model"
    )
    add_place(command)


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Run it: 0 when every spec would be accepted, 1 when one would not.

    Raises:
        OperatorError: a file or the cluster can not be read.
    """
    documents = list(_documents(options.filename))
    ours = [each for each in documents if each.get("kind") in (WENXIN_DEPLOYMENT, WENXIN_MODEL)]
    if not ours:
        raise OperatorError(f"{', '.join(options.filename)}: no WenxinDeployment and no WenxinModel in it")
    world = asyncio.run(_world(options, environment, documents))
    planned = [_plan(world, key) for key in world.asked]
    {"text": _print_text, "json": _print_json, "yaml": _print_yaml}[options.output](planned)
    return 0 if all(each.accepted for each in planned) else 1


def _documents(files: Sequence[str]) -> Iterator[Raw]:
    for name in files:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text()
            documents = list(yaml.safe_load_all(text))
        except OSError as error:
            raise OperatorError(f"{name}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise OperatorError(f"{name} is no YAML: {error}") from None
        for number, document in enumerate(documents, 1):
            if document is not None:
                yield _checked(document, f"{name}, document {number}")


def _checked(document: object, where: str) -> Raw:
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise OperatorError(f"{where}: not an object of Kubernetes; kind is missing")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise OperatorError(f"{where}: {document['kind']} has no metadata.name")
    if document["kind"] in (WENXIN_DEPLOYMENT, WENXIN_MODEL) and document.get("apiVersion") != API_VERSION:
        raise OperatorError(f"{where}: {document['kind']} is of apiVersion {API_VERSION}")
    return document


async def _world(options: argparse.Namespace, environment: Mapping[str, str], documents: Sequence[Raw]) -> World:
    if options.offline:
        world = of_nothing(options.namespace or "default")
    else:
        async with connected(options, environment) as connection:
            world = await of_cluster(connection, _namespaces(connection, documents))
    for document in documents:
        world.overlay(document, PRESETS.get(options.assume or ""))
    return world


def _namespaces(connection: Connection, documents: Sequence[Raw]) -> tuple[str, ...]:
    """Where to look, the first for what names none."""
    named = {each["metadata"].get("namespace") or connection.namespace or "default" for each in documents}
    here = connection.namespace or "default"
    return (here, *sorted(named - {here}))


def _plan(world: World, key: Key) -> Planned:
    found = reconcile.look(key, world.store, world.settings, dt.datetime.now(dt.UTC))
    if found is None:
        raise OperatorError(f"{key.kind} {key.namespace}/{key.name} is being deleted; wait until it is gone")
    conditions = {one["type"]: one for one in found.report(None).status.get("conditions", ())}
    todo = changes.decide(found.plan, found.children)
    return Planned(found.resource, conditions, todo, found.plan.objects, found.children)


def _print_text(planned: Sequence[Planned]) -> None:
    print("\n\n".join(map(render, planned)))


def _print_json(planned: Sequence[Planned]) -> None:
    print(json.dumps([_fields(each) for each in planned], indent=2))


def _print_yaml(planned: Sequence[Planned]) -> None:
    print(yaml.safe_dump_all([each for one in planned for each in one.objects], sort_keys=False), end="")


def _fields(planned: Planned) -> Raw:
    metadata = planned.resource["metadata"]
    return {
        "kind": planned.resource["kind"],
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "accepted": planned.accepted,
        "replacesPods": planned.replaces_pods,
        "conditions": list(planned.conditions.values()),
        "apply": [{"new": each.new, "why": each.why, "manifest": each.manifest} for each in planned.todo.apply],
        "delete": [{"kind": each["kind"], "name": each["metadata"]["name"]} for each in planned.todo.prune],
    }
