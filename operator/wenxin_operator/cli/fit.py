"""`kubectl wenxin fit`: which GPUs a model fits, before anything is asked of a cluster."""

import argparse
import asyncio
from collections.abc import Mapping

from wenxin_operator import fit
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.cli import fit_table
from wenxin_operator.cli.asking import add_place, connected, positive
from wenxin_operator.errors import OperatorError, SpecError
from wenxin_operator.names import WENXIN_MODEL, Raw
from wenxin_operator.presets import PRESETS

_CONTEXT = 8192


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    command = commands.add_parser("fit", help="which GPUs a model fits, and with how many; exit code 1 when none")
    command.add_argument("name", metavar="MODEL", help=f"a WenxinModel, or a released model: {', '.join(PRESETS)}")
    command.add_argument("--context", type=positive, help=f"longest prompt and answer in tokens (default: {_CONTEXT})")
    command.add_argument("--concurrency", type=positive, default=1, help="such sequences at a time (default: 1)")
    command.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    command.add_argument("--quantization", choices=("none", "int8"), default="none")
    command.add_argument("--card", choices=fit.CARDS, help="every layout on this one (default: the smallest on each)")
    command.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json has every layout")
    _add_layout(command)
    add_place(command)


def _add_layout(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("layout", "what of spec.parallelism is given; the rest is chosen")
    group.add_argument("--tensor", type=positive, help="GPUs that share every layer")
    group.add_argument("--data", type=positive, help="groups of them, each with its own sequences")
    group.add_argument(
        "--expert", action=argparse.BooleanOptionalAction, help="spread whole experts over the GPUs of all groups"
    )
    group.add_argument("--redundant-experts", type=positive, default=0, help="places for copies of experts")
    group.add_argument("--nodes", type=positive, help="nodes of a replica (default: as few as will do)")
    group.add_argument(
        "--gpus-per-node", type=positive, default=fit.GPUS_OF_A_NODE, help="at most (default: %(default)s)"
    )


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Run it.

    Raises:
        OperatorError: the model is not known, or no layout is as asked.
    """
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
    show = fit_table.as_json if options.output == "json" else fit_table.render
    print(show(options.name, facts, demand, settled, options.card))
    return 0 if fit_table.fits_some(facts, demand, settled, options.card) else 1


def _facts(options: argparse.Namespace, environment: Mapping[str, str]) -> ModelFacts:
    try:
        found = asyncio.run(_model(options, environment))
    except OperatorError as error:
        raise OperatorError(f"{options.name} is none of {', '.join(PRESETS)}; as a WenxinModel: {error}") from error
    if not found:
        raise OperatorError(f"{options.name} is neither one of {', '.join(PRESETS)} nor a WenxinModel here")
    facts = parse(ModelFacts, (found[0].get("status") or {}).get("facts") or {})
    if isinstance(facts, SpecError) or not fit.known(facts):
        raise OperatorError(f"WenxinModel {options.name} has not been inspected yet; see its conditions")
    return facts


async def _model(options: argparse.Namespace, environment: Mapping[str, str]) -> list[Raw]:
    async with connected(options, environment) as connection:
        return await connection.some(WENXIN_MODEL, options.name)
