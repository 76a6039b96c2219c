"""Columns. Pure."""

from collections.abc import Iterable, Sequence

_GAP = 2


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines whose columns stand under each other."""
    lines = [head, *rows]
    widths = [max(map(len, column)) + _GAP for column in zip(*lines, strict=True)]
    return "\n".join("".join(map(str.ljust, line, widths)).rstrip() for line in lines)
