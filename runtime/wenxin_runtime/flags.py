"""Fields of a frozen dataclass as flags: field `max_num_seqs` is `--max-num-seqs`, and its default is the flag's."""

import argparse
import dataclasses
from dataclasses import field
from typing import Any


def flag(default: Any, help: str, **argparse_options: Any) -> Any:  # noqa: A002 - argparse's own word
    """Declare a field that is a flag too."""
    return field(default=default, metadata={"help": help, **argparse_options})


def flag_of(name: str) -> str:
    """Spell a field as its flag."""
    return "--" + name.replace("_", "-")


def add_field_flags(parser: argparse.ArgumentParser, kind: type, leave_out: tuple[str, ...]) -> None:
    """Give `parser` one flag per field of the dataclass `kind`, but for the positional ones."""
    for spec in dataclasses.fields(kind):
        if spec.name in leave_out:
            continue
        options = dict(spec.metadata)
        if spec.default not in (None, ()) and not isinstance(spec.default, bool):
            options["help"] += " (default: %(default)s)"
        if "action" not in options and "choices" not in options:
            options["type"] = _parser_of(str(spec.type))
        parser.add_argument(flag_of(spec.name), dest=spec.name, default=spec.default, **options)


def _parser_of(annotation: str) -> type:
    for kind in (int, float):
        if kind.__name__ in annotation:
            return kind
    return str
