"""A model's text in labelled pieces, and the tokens that they are made of.

Whatever splits an answer only labels it: the segments of an answer, put together, are its text again.
"""

import enum
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from wenxin_runtime.server.openai.piece import ScoredToken


class Kind(enum.Enum):
    """Which part of an answer a text belongs to."""

    REASONING = enum.auto()
    CONTENT = enum.auto()
    CALL = enum.auto()


class Segment(NamedTuple):
    """A stretch of the model's text. What is not `shown` is markup: tags and the newlines that set them off."""

    kind: Kind
    text: str
    shown: bool = True


@dataclass(slots=True)
class _Token:
    start: int
    end: int
    scored: ScoredToken | None
    in_content: bool = False
    in_reasoning: bool = False


class TokenLedger:
    """Says of each token which part of the answer it belongs to, once the text is labelled that far.

    A token belongs to the content if any of its characters is shown as content. A token that completes no character
    goes with the next one.

    Attributes:
        reasoning_tokens: Tokens that belong to the reasoning, its tags included.
    """

    def __init__(self) -> None:
        self.reasoning_tokens = 0
        self._waiting: deque[_Token] = deque()
        self._received = 0
        self._labelled = 0
        self._last: Segment | None = None

    def add(self, scored: ScoredToken | None, characters: int) -> None:
        """Add a token that adds this many characters to the text."""
        self._waiting.append(_Token(self._received, self._received + characters, scored))
        self._received += characters

    def label(self, segment: Segment) -> list[ScoredToken]:
        """Label the next stretch of the text; return the content tokens that are complete with it."""
        self._last = segment
        self._labelled += len(segment.text)
        found: list[ScoredToken] = []
        while self._waiting and self._waiting[0].start < self._labelled:
            token = self._waiting[0]
            self._mark(token, segment)
            if token.end > self._labelled:
                break
            found += self._settle(self._waiting.popleft())
        return found

    def finish(self) -> list[ScoredToken]:
        """Let the tokens that are left, which show no text, go with the last stretch; return those of the content."""
        found: list[ScoredToken] = []
        while self._waiting:
            token = self._waiting.popleft()
            if self._last is not None:
                self._mark(token, self._last)
            found += self._settle(token)
        return found

    def _mark(self, token: _Token, segment: Segment) -> None:
        token.in_content |= segment.kind is Kind.CONTENT and segment.shown
        token.in_reasoning |= segment.kind is Kind.REASONING

    def _settle(self, token: _Token) -> list[ScoredToken]:
        self.reasoning_tokens += token.in_reasoning and not token.in_content
        return [token.scored] if token.scored is not None and token.in_content else []
