"""`kubectl wenxin completion`: the shell asks this program what may come next, so it always says what the parser takes.

kubectl itself completes a plugin by running `kubectl_complete-wenxin`, which is installed beside it (cli/__main__.py).
"""

import argparse
import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

from wenxin_operator.cli.asking import add_kubeconfig, connected
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import WENXIN_DEPLOYMENT, WENXIN_MODEL
from wenxin_operator.presets import PRESETS

ASKED = "__complete"
_SCRIPTS = {
    "bash": """\
_kubectl_wenxin() {
  mapfile -t COMPREPLY < <(kubectl-wenxin __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _kubectl_wenxin kubectl-wenxin
""",
    "zsh": """\
_kubectl_wenxin() {
  compadd -- ${(f)"$(kubectl-wenxin __complete ${words[2,CURRENT]} 2>/dev/null)"}
}
compdef _kubectl_wenxin kubectl-wenxin
""",
    "fish": """\
complete -c kubectl-wenxin -f -a '(kubectl-wenxin __complete (commandline -opc)[2..] (commandline -ct))'
""",
}
_KINDS = {"DEPLOYMENT": WENXIN_DEPLOYMENT, "MODEL": WENXIN_MODEL}
_ASK_SECONDS = 3.0  # a shell that hangs is worse than one that says nothing


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    text = "a script that completes kubectl-wenxin in a shell: source <(kubectl wenxin completion bash)"
    command = commands.add_parser("completion", help=text, description=text)
    command.add_argument("shell", choices=_SCRIPTS)


def run(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    """Print the script."""
    print(_SCRIPTS[options.shell], end="")
    return 0


def answer(parser: argparse.ArgumentParser, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print what the last of `words` may become."""
    for candidate in candidates(parser, words, environment):
        print(candidate)
    return 0


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What the last of `words` may become, in alphabetical order.

    Args:
        parser: Of the whole program.
        words: What has been typed after the program's name; the last may be empty.
        environment: Says where the kubeconfig is.
    """
    *before, begun = words or ("",)
    commands = _subparsers(parser)
    command = next((word for word in before if word in commands), None)
    if command is None:
        return sorted(name for name in (*commands, "-h", "--help") if name.startswith(begun))
    chosen = commands[command]
    asking = _option(chosen, before[-1]) if before else None
    if asking is not None and asking.nargs != 0 and asking.choices is not None:
        found: Iterable[str] = map(str, asking.choices)
    elif asking is not None and asking.nargs is None:
        return []  # the value of an option: the shell knows files, we know nothing
    elif begun.startswith("-"):
        found = (name for each in chosen._actions for name in each.option_strings)  # noqa: SLF001 - no other way
    else:
        found = _positional(chosen, before, environment)
    return sorted({word for word in found if word.startswith(begun)})


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001 - argparse offers no other way to its own contents
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - same
            return dict(action.choices)
    return {}


def _option(command: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    return command._option_string_actions.get(word)  # noqa: SLF001 - same


def _positional(
    command: argparse.ArgumentParser, before: Sequence[str], environment: Mapping[str, str]
) -> Iterator[str]:
    for action in command._actions:  # noqa: SLF001 - same
        if action.option_strings:
            continue
        if action.choices is not None:
            yield from action.choices
        elif isinstance(action.metavar, str) and action.metavar in _KINDS:
            yield from PRESETS if action.metavar == "MODEL" else ()
            yield from _names(_KINDS[action.metavar], before, environment)


def _names(kind: str, before: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What the cluster has; nothing where it can not be asked, for a shell shows no errors."""
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("-n", "--namespace")
    add_kubeconfig(place)
    options, _ = place.parse_known_args(before)
    try:
        return asyncio.run(asyncio.wait_for(_listed(kind, options, environment), _ASK_SECONDS))
    except (OperatorError, TimeoutError, OSError):
        return []


async def _listed(kind: str, options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    async with connected(options, environment) as connection:
        return [each["metadata"]["name"] for each in await connection.some(kind, None)]
