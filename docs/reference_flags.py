"""The page of runtime flags, from the parsers of the commands themselves."""

import argparse
from collections.abc import Callable

from docs.markdown import code, table
from wenxin_runtime import config
from wenxin_runtime.download import options as download

_HEAD = """\
# Flags of `wenxin-runtime serve`

`wenxin-runtime serve MODEL_DIR [flags]`. An argument `@FILE` stands for the arguments in FILE, one per line; the
operator passes its flags that way.

"""
_DOWNLOAD = """
# Flags of `wenxin-runtime download`

`wenxin-runtime download SOURCE DIRECTORY [flags]`; [downloads](../downloads.md) has the rest.

"""


def flags_page() -> str:
    """One row per flag: name, default, meaning."""
    return _HEAD + _flags(config.add_flags) + _DOWNLOAD + _flags(download.add_flags)


def _flags(add: Callable[[argparse.ArgumentParser], None]) -> str:
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    rows = [_row(action) for action in parser._actions if action.option_strings]  # noqa: SLF001 - argparse offers no public list
    return table(["flag", "default", "meaning"], rows)


def _row(action: argparse.Action) -> tuple[str, str, str]:
    names = ", ".join(code(option) for option in action.option_strings)
    meaning = (action.help or "").removesuffix(" (default: %(default)s)")
    if action.choices:
        meaning += f" (one of {', '.join(code(choice) for choice in action.choices)})"
    return names, _default(action.default), meaning


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, ()) else code(value)
