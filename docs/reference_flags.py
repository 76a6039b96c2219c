"""The page of runtime flags, from RuntimeConfig's own parser."""

import argparse

from docs.markdown import code, table
from wenxin_runtime.config import add_flags

_HEAD = """\
# Flags of `wenxin-runtime serve`

`wenxin-runtime serve MODEL_DIR [flags]`. An argument `@FILE` stands for the arguments in FILE, one per line; the
operator passes its flags that way.

"""


def flags_page() -> str:
    """One row per flag: name, default, meaning."""
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser)
    rows = [_row(action) for action in parser._actions if action.option_strings]  # noqa: SLF001 - argparse offers no public list
    return _HEAD + table(["flag", "default", "meaning"], rows)


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
