"""The plugin's commands. On the PATH as kubectl-wenxin, it is `kubectl wenxin`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenxin_operator import fit
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.cli import fit as cli_fit
from wenxin_operator.cli.status import is_ready, render
from wenxin_operator.cluster import Cluster, Retries
from wenxin_operator.connection import find
from wenxin_operator.errors import OperatorError, SpecError
from wenxin_operator.names import WENXIN_DEPLOYMENT, WENXIN_MODEL, Raw
from wenxin_operator.presets import PRESETS
from wenxin_operator.telemetry import VERSION

REQUEST_SECONDS = 15.0
_CONTEXT = 8192


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run one command.

    Returns:
        0 when all that was asked for is Ready, 1 when something is not, 2 when it could not be asked.
    """
    options = _parser().parse_args(arguments)
    if options.command == "version":
        print(f"kubectl-wenxin {VERSION}")
        return 0
    try:
        return _fit(options, environment) if options.command == "fit" else _status(options, environment)
    except OperatorError as error:
        print(f"kubectl-wenxin: {error}", file=sys.stderr)
        return 2


def _status(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    found = asyncio.run(_fetch(options, environment, WENXIN_DEPLOYMENT))
    if not found:
        print(f"no WenxinDeployment {options.name or 'here'}", file=sys.stderr)
        return 2
    print("\n\n".join(map(render, found)))
    return 0 if all(map(is_ready, found)) else 1


def _fit(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    facts = PRESETS.get(options.name) or _facts(options, environment)
    context = options.context or min(facts.context_length, _CONTEXT)
    demand = fit.Demand(context, options.concurrency, options.dtype, options.quantization)
    settled = fit.Settled(
        tensor=options.tensor,
        data=options.data,
        expert=True if options.redundant_experts else options.expert,
        redundant_experts=options.redundant_experts,
        nodes=options.nodes,
        gpus_of_a_node=options.gpus_per_node,
    )
    if not fit.layouts(facts, settled):
        raise OperatorError(f"no such layout divides {options.name} evenly; leave some of the options out")
    show = cli_fit.as_json if options.output == "json" else cli_fit.render
    print(show(options.name, facts, demand, settled, options.card))
    return 0 if cli_fit.fits_some(facts, demand, settled, options.card) else 1


def _facts(options: argparse.Namespace, environment: Mapping[str, str]) -> ModelFacts:
    try:
        found = asyncio.run(_fetch(options, environment, WENXIN_MODEL))
    except OperatorError as error:
        raise OperatorError(f"{options.name} is none of {', '.join(PRESETS)}; as a WenxinModel: {error}") from error
    if not found:
        raise OperatorError(f"{options.name} is neither one of {', '.join(PRESETS)} nor a WenxinModel here")
    facts = parse(ModelFacts, (found[0].get("status") or {}).get("facts") or {})
    if isinstance(facts, SpecError) or not fit.known(facts):
        raise OperatorError(f"WenxinModel {options.name} has not been inspected yet; see its conditions")
    return facts


async def _fetch(options: argparse.Namespace, environment: Mapping[str, str], kind: str) -> list[Raw]:
    endpoint = find(options.kubeconfig, environment)
    namespace = options.namespace or endpoint.namespace
    async with endpoint.session(timeout=REQUEST_SECONDS) as session:
        cluster = Cluster(session, endpoint.server, identity="kubectl-wenxin", retries=Retries(attempts=2))
        if options.name:
            one = await cluster.read(kind, namespace, options.name)
            return [one] if one else []
        return (await cluster.list(kind, namespace)).items


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubectl wenxin", description="ERNIE 4.5 on this cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="how WenxinDeployments are, and why; exit code 1 when one is not Ready")
    status.add_argument("name", nargs="?", help="one of them (default: all of the namespace)")
    judge = commands.add_parser("fit", help="which GPUs a model fits, and with how many; exit code 1 when none")
    _add_demand(judge)
    _add_layout(judge)
    for command in (status, judge):
        command.add_argument("-n", "--namespace", help="default: that of the kubeconfig's context")
        command.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, else ~/.kube/config")
    commands.add_parser("version", help="this plugin's version")
    return parser


def _add_demand(judge: argparse.ArgumentParser) -> None:
    judge.add_argument("name", help=f"a WenxinModel, or a released model: {', '.join(PRESETS)}")
    judge.add_argument("--context", type=_positive, help=f"longest prompt and answer in tokens (default: {_CONTEXT})")
    judge.add_argument("--concurrency", type=_positive, default=1, help="such sequences at a time (default: 1)")
    judge.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    judge.add_argument("--quantization", choices=("none", "int8"), default="none")
    judge.add_argument("--card", choices=fit.CARDS, help="every layout on this one (default: the smallest on each)")
    judge.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json has every layout")


def _add_layout(judge: argparse.ArgumentParser) -> None:
    group = judge.add_argument_group("layout", "what of spec.parallelism is given; the rest is chosen")
    group.add_argument("--tensor", type=_positive, help="GPUs that share every layer")
    group.add_argument("--data", type=_positive, help="groups of them, each with its own sequences")
    group.add_argument(
        "--expert", action=argparse.BooleanOptionalAction, help="spread whole experts over the GPUs of all groups"
    )
    group.add_argument("--redundant-experts", type=_positive, default=0, help="places for copies of experts")
    group.add_argument("--nodes", type=_positive, help="nodes of a replica (default: as few as will do)")
    group.add_argument(
        "--gpus-per-node", type=_positive, default=fit.GPUS_OF_A_NODE, help="at most (default: %(default)s)"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
