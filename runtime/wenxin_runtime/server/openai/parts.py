"""From a choice's text to its parts: reasoning, content and tool calls, each token's logprobs where they belong."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from wenxin_runtime.server.openai.piece import Piece, ScoredToken
from wenxin_runtime.server.openai.reasoning import ReasoningSplitter, Stage
from wenxin_runtime.server.openai.segments import Kind, Segment, TokenLedger
from wenxin_runtime.server.openai.tool_calls import ToolCallSplitter


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How tool calls are looked for; see ToolCallSplitter."""

    eager: bool
    only_one: bool


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What an answer may hold besides its content.

    Attributes:
        stage: Where it begins, for a model that thinks.
        calls: How tool calls are looked for, where they may come.
        include_reasoning: Whether the reasoning is shown.
        shown_ids: Special tokens that are part of this format, so that they have to be read as text.
    """

    stage: Stage | None = None
    calls: CallFormat | None = None
    include_reasoning: bool = True
    shown_ids: frozenset[int] = frozenset()


class Parts(Protocol):
    """What sorts a choice's text into a piece."""

    @property
    def reasoning_tokens(self) -> int:
        """Tokens that belong to the reasoning."""

    @property
    def called(self) -> bool:
        """Whether a tool was called."""

    @property
    def finished(self) -> bool:
        """Whether nothing more is wanted."""

    def token(self, scored: ScoredToken | None, characters: int, piece: Piece) -> None:
        """Add a token that adds this many characters to the text; they come with `text` later."""

    def text(self, text: str, piece: Piece) -> None:
        """Add text."""

    def finish(self, piece: Piece) -> None:
        """The text has ended."""


class PlainParts:
    """Everything is content."""

    reasoning_tokens = 0
    called = False
    finished = False

    def token(self, scored: ScoredToken | None, characters: int, piece: Piece) -> None:  # noqa: ARG002 - see Parts
        """Show its logprobs at once."""
        if scored is not None:
            piece.scored.append(scored)

    def text(self, text: str, piece: Piece) -> None:
        """Show it."""
        piece.parts.append(text)

    def finish(self, piece: Piece) -> None:
        """Nothing was held back."""


class FormattedParts:
    """Reasoning, content and calls. Logprobs are shown for the content's tokens only, together with their text."""

    def __init__(self, answer_format: AnswerFormat) -> None:
        self._include_reasoning = answer_format.include_reasoning
        self._reasoning = None if answer_format.stage is None else ReasoningSplitter(answer_format.stage)
        calls = answer_format.calls
        self._calls = None if calls is None else ToolCallSplitter(eager=calls.eager, only_one=calls.only_one)
        self._ledger = TokenLedger()

    @property
    def reasoning_tokens(self) -> int:
        """Tokens that belong to the reasoning, its tags included."""
        return self._ledger.reasoning_tokens

    @property
    def called(self) -> bool:
        """Whether a tool was called."""
        return self._calls is not None and self._calls.called

    @property
    def finished(self) -> bool:
        """Whether the only call that was wanted is complete."""
        return self._calls is not None and self._calls.finished

    def token(self, scored: ScoredToken | None, characters: int, piece: Piece) -> None:  # noqa: ARG002 - see Parts
        """Remember it until its text is sorted."""
        self._ledger.add(scored, characters)

    def text(self, text: str, piece: Piece) -> None:
        """Sort it."""
        segments = [Segment(Kind.CONTENT, text)] if self._reasoning is None else self._reasoning.push(text)
        self._sort(segments, piece)

    def finish(self, piece: Piece) -> None:
        """Sort what was held back."""
        self._sort([] if self._reasoning is None else self._reasoning.finish(), piece)
        if self._calls is not None:
            self._put(self._calls.finish(), piece)
        piece.scored += self._ledger.finish()

    def _sort(self, segments: Iterable[Segment], piece: Piece) -> None:
        for segment in segments:
            if self._calls is None or segment.kind is not Kind.CONTENT:
                self._put([segment], piece)
            elif segment.shown:
                self._put(self._calls.push(segment.text), piece)
            else:
                self._put([*self._calls.finish(), segment], piece)

    def _put(self, segments: Iterable[Segment], piece: Piece) -> None:
        for segment in segments:
            piece.scored += self._ledger.label(segment)
            if segment.shown and segment.kind is Kind.CONTENT:
                piece.parts.append(segment.text)
            elif segment.shown and segment.kind is Kind.REASONING and self._include_reasoning:
                piece.reasoning_parts.append(segment.text)
        if self._calls is not None:
            piece.calls += self._calls.take_parts()


def parts_of(answer_format: AnswerFormat | None) -> Parts:
    """Make what sorts one choice."""
    return PlainParts() if answer_format is None else FormattedParts(answer_format)
