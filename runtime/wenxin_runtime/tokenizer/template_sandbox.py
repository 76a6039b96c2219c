"""jinja2's sandbox with bounds: a template that loops or swells ends with an error, not with the server."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.visitor
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_CHARACTERS = 32 * 2**20
"""Longest text that a template may write, or make on the way."""
MOST_STEPS = 1_000_000
"""Most passes through all loops of one rendering."""
COUNTER = "_wenxin_step_counter"
"""The name under which each rendering has to have a StepCounter."""
JOIN = "_wenxin_join"


class TemplateTooLarge(jinja2.TemplateError):
    """The template does more than any conversation needs."""


class StepCounter:
    """Counts the passes through the loops of one rendering."""

    def __init__(self) -> None:
        self._left = MOST_STEPS

    def __call__(self, iterable: Iterable[Any]) -> Iterable[Any]:
        """Return what to loop over instead of `iterable`.

        Raises:
            TemplateTooLarge: that would be too many passes.
        """
        if not isinstance(iterable, Sized):
            return self._counted(iterable)
        self._take(len(iterable))
        return iterable

    def _counted(self, iterable: Iterable[Any]) -> Iterator[Any]:
        for item in iterable:
            self._take(1)
            yield item

    def _take(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TemplateTooLarge(f"it loops more than {MOST_STEPS} times")


def _joined(values: Iterable[Any]) -> str:
    texts: list[str] = []
    size = 0
    for value in values:
        texts.append(str(value))
        size += len(texts[-1])
        _check_length(size)
    return "".join(texts)


class _Bounding(jinja2.visitor.NodeTransformer):
    """Counts the passes of loops, and joins `a ~ b` with a look at the length."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:  # noqa: N802 - jinja2 derives it from the node
        self.generic_visit(node)
        counter = jinja2.nodes.Name(COUNTER, "load", lineno=node.lineno)
        node.iter = jinja2.nodes.Call(counter, [node.iter], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:  # noqa: N802 - jinja2 derives it
        self.generic_visit(node)
        texts = jinja2.nodes.List(node.nodes, lineno=node.lineno)
        return jinja2.nodes.Filter(texts, JOIN, [], [], None, None, lineno=node.lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose loops are counted and whose texts, put together by operators and blocks, stay small.

    Filters that make a text of any length are not bounded: the template comes from whoever runs the server.
    """

    intercepted_binops = frozenset(["+", "*", "**"])
    concat = staticmethod(_joined)  # puts the parts of the whole, of blocks and of macros together

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters[JOIN] = _joined

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        parsed: jinja2.nodes.Template = _Bounding().visit(super()._parse(source, name, filename))
        return parsed

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse what would not fit into memory before it is computed."""
        if operator == "**":
            raise TemplateTooLarge("it computes a power")
        _check_length(
            _length(left) + _length(right)
            if operator == "+"
            else _length(left) * _number(right) + _length(right) * _number(left)
        )
        return super().call_binop(context, operator, left, right)


def _check_length(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise TemplateTooLarge(f"it makes a text of {characters} characters")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
