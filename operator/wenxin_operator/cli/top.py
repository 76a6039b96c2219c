"""`kubectl wenxin top`: what the replicas have to do right now, from their own mouths."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from wenxin_operator import pods
from wenxin_operator.cli import forward
from wenxin_operator.cli.asking import Connection, add_place, connected, positive
from wenxin_operator.cli.table import table
from wenxin_operator.errors import OperatorError
from wenxin_operator.load import Load
from wenxin_operator.names import COMPONENT_RUNTIME, LABEL_COMPONENT, LABEL_DEPLOYMENT, POD, WENXIN_DEPLOYMENT, Raw
from wenxin_operator.plan.flags import PORT

_AT_ONCE = 16  # pods that are asked at the same time
_SILENT = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """One pod that answers requests.

    Attributes:
        load: None while it is not ready, or does not answer.
    """

    namespace: str
    deployment: str
    pod: str
    load: Load | None


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    text = "requests running and waiting, live from the pods (needs the right to port-forward)"
    command = commands.add_parser("top", help=text, description=text)
    command.add_argument("name", metavar="DEPLOYMENT", nargs="?", help="one WenxinDeployment (default: all)")
    command.add_argument("--pods", action="store_true", help="one line for each pod")
    command.add_argument(
        "-w", "--watch", metavar="SECONDS", type=positive, nargs="?", const=2, help="again and again (default: 2)"
    )
    command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    add_place(command, everywhere=True)


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Run it: 0 when every pod answered, 1 when one did not.

    Raises:
        OperatorError: the cluster can not be asked, or there is no such deployment.
    """
    return asyncio.run(_run(options, environment))


async def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    async with connected(options, environment) as connection:
        while True:
            rows = await _rows(connection, options.name)
            print(_shown(rows, options), flush=True)
            if not options.watch:
                return 0 if all(row.load for row in rows) else 1
            await asyncio.sleep(options.watch)
            if sys.stdout.isatty():
                print("\033[H\033[2J", end="")


def _shown(rows: Sequence[Row], options: argparse.Namespace) -> str:
    if options.output == "json":
        return json.dumps([_fields(row) for row in rows], indent=None if options.watch else 2)
    return by_pod(rows) if options.pods else by_deployment(rows)


async def _rows(connection: Connection, name: str | None) -> list[Row]:
    if not await connection.some(WENXIN_DEPLOYMENT, name):
        raise OperatorError(f"no WenxinDeployment {name or 'here'}")
    listed = (await connection.cluster.list(POD, connection.namespace)).items
    leading = [pod for pod in listed if _answers(pod, name)]
    turns = asyncio.Semaphore(_AT_ONCE)
    return list(await asyncio.gather(*(_row(connection, pod, turns) for pod in leading)))


def _answers(pod: Raw, name: str | None) -> bool:
    """Whether it is a pod that answers requests: any replica's, of a group the first."""
    labels, seen = pod["metadata"].get("labels") or {}, pods.see(pod)
    ours = labels.get(LABEL_COMPONENT) == COMPONENT_RUNTIME and labels.get(LABEL_DEPLOYMENT)
    return bool(ours) and name in (None, ours) and seen.leads and not seen.leaving


async def _row(connection: Connection, pod: Raw, turns: asyncio.Semaphore) -> Row:
    metadata = pod["metadata"]
    row = Row(metadata["namespace"], metadata["labels"][LABEL_DEPLOYMENT], metadata["name"], None)
    if not pods.see(pod).ready:
        return row
    async with turns:
        try:
            answer = await forward.get(connection.session, connection.endpoint, row.namespace, row.pod, PORT, "/load")
            return Row(row.namespace, row.deployment, row.pod, Load.parse(json.loads(answer)))
        except (OperatorError, ValueError) as error:
            print(f"kubectl-wenxin: {row.namespace}/{row.pod}: {error}", file=sys.stderr)
            return row


def by_pod(rows: Sequence[Row]) -> str:
    """One line for each pod."""
    head = ("NAMESPACE", "NAME", "POD", "RUNNING", "SLOTS", "WAITING", "QUEUE", "KV CACHE")
    return table(head, ((row.namespace, row.deployment, row.pod, *_cells([row])) for row in rows))


def by_deployment(rows: Sequence[Row]) -> str:
    """One line for each deployment: sums over the pods that answered; of the KV caches the fullest."""
    head = ("NAMESPACE", "NAME", "ANSWER", "RUNNING", "SLOTS", "WAITING", "QUEUE", "KV CACHE")
    return table(head, _sums(rows))


def _sums(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for place in sorted({(row.namespace, row.deployment) for row in rows}):
        those = [row for row in rows if (row.namespace, row.deployment) == place]
        yield (*place, f"{sum(row.load is not None for row in those)}/{len(those)}", *_cells(those))


def _cells(rows: Iterable[Row]) -> tuple[str, ...]:
    loads = [row.load for row in rows if row.load]
    if not loads:
        return (_SILENT,) * 5
    sums = (sum(getattr(load, each) for load in loads) for each in ("running", "slots", "waiting", "queue_size"))
    return (*map(str, sums), f"{max(load.kv_usage for load in loads):.0%}")


def _fields(row: Row) -> Raw:
    load = asdict(row.load) if row.load else None
    return {"namespace": row.namespace, "deployment": row.deployment, "pod": row.pod, "load": load}
