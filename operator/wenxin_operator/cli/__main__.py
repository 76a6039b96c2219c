"""The plugin's commands. On the PATH as kubectl-wenxin, it is `kubectl wenxin`."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from wenxin_operator.cli import cache, completion, fit, plan, status, top
from wenxin_operator.errors import OperatorError
from wenxin_operator.telemetry import VERSION


class Command(Protocol):
    """A module of this package that is one command."""

    def add_to(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]", /) -> None:
        """Add it to the parser."""

    def run(self, options: argparse.Namespace, environment: Mapping[str, str], /) -> int:
        """Run it; the exit code. Raises OperatorError with what to tell."""


COMMANDS: Mapping[str, Command] = {
    "status": status,
    "plan": plan,
    "top": top,
    "cache": cache,
    "fit": fit,
    "completion": completion,
}

_NO_FILES = ":4"  # cobra's directive, which kubectl understands
EPILOG = """\
examples:
  kubectl wenxin status                            how all deployments of the namespace are, and why
  kubectl wenxin plan -f my-model.yaml             what an apply of this file would do, without doing it
  kubectl wenxin top --watch                       requests running and waiting, live from the pods
  kubectl wenxin cache stats my-model              what its answer cache holds, and how often it helps
  kubectl wenxin fit ernie-4.5-21b-a3b             which GPUs a model fits
  source <(kubectl wenxin completion bash)         completion for kubectl-wenxin
"""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run one command.

    Returns:
        0 when all is as one would wish, 1 when something is not, 2 when it could not be asked.
    """
    parser = parser_of_all()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == [completion.ASKED]:
        return completion.answer(parser, arguments[1:], environment)
    options = parser.parse_args(arguments)
    if options.command == "version":
        print(f"kubectl-wenxin {VERSION}")
        return 0
    try:
        return COMMANDS[options.command].run(options, environment)
    except OperatorError as error:
        print(f"kubectl-wenxin: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def answer_kubectl(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Tell kubectl what may come next: the program `kubectl_complete-wenxin`."""
    completion.answer(parser_of_all(), sys.argv[1:] if arguments is None else arguments, environment)
    print(_NO_FILES)
    return 0


def parser_of_all() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="kubectl wenxin",
        description="ERNIE 4.5 on this cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        module.add_to(commands)
    commands.add_parser("version", help="this plugin's version")
    return parser


if __name__ == "__main__":
    sys.exit(main())
