"""Which metrics and labels a PromQL expression names. Not a parser: it reads tokens, and knows what each can be.

The grammar is https://prometheus.io/docs/prometheus/latest/querying/basics/. An identifier is a metric unless it
calls, aggregates, groups or joins; what stands in braces are matchers of the metric before it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|\[[^\]]*\]|[a-zA-Z_:][\w:]*|\d[\w.]*|=~|!~|!=|[^\s\w]')
_GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"})
_IDENTIFIER = re.compile(r"[a-zA-Z_:]")


@dataclass(frozen=True)
class Selector:
    """One metric with the labels that it is matched by; the metric is empty where only matchers stand."""

    metric: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What an expression names.

    Attributes:
        selectors: In order.
        grouped: Labels that it groups or joins by.
    """

    selectors: tuple[Selector, ...]
    grouped: frozenset[str]

    @property
    def metrics(self) -> frozenset[str]:
        """Names of metrics."""
        return frozenset(selector.metric for selector in self.selectors)


def read(expression: str) -> Reading:
    """Read an expression.

    Raises:
        ValueError: a brace or a parenthesis is not closed.
    """
    tokens = _TOKEN.findall(expression)
    selectors: list[Selector] = []
    grouped: set[str] = set()
    at = 0
    while at < len(tokens):
        word, after = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        if word == "{":
            end = _closing(tokens, at, "}")
            metric = selectors.pop().metric if at and _names_a_metric(tokens, at - 1) else ""
            selectors.append(Selector(metric, tuple(_identifiers(tokens[at:end]))))
            at = end
        elif word in _GROUPING and after == "(":
            end = _closing(tokens, at, ")")
            grouped.update(_identifiers(tokens[at + 1 : end]))
            at = end
        elif _names_a_metric(tokens, at):
            selectors.append(Selector(word))
        at += 1
    return Reading(tuple(selectors), frozenset(grouped))


def _names_a_metric(tokens: list[str], at: int) -> bool:
    word, after = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
    if not _IDENTIFIER.match(word) or word.lower() in _WORDS | _GROUPING:
        return False
    return after != "(" and after not in ("by", "without")


def _closing(tokens: list[str], at: int, bracket: str) -> int:
    if bracket not in tokens[at:]:
        raise ValueError(f"a {bracket} is missing: {' '.join(tokens)}")
    return tokens.index(bracket, at)


def _identifiers(tokens: list[str]) -> Iterator[str]:
    return (word for word in tokens if _IDENTIFIER.match(word))
