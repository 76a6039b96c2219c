"""Keep a user's text from forging control tokens: `<|end_of_sentence|>` typed by a user stays text.

The control tokens in the messages are wrapped in private-use characters before the template runs; afterwards the
wrapped ones are encoded as plain text and all others as tokens. This is transformers'
`apply_chat_template(..., sanitize_control_tokens=True)`; messages without control tokens are encoded as ever.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from wenxin_runtime.errors import InvalidRequest

_START, _END = "\U000f0000", "\U000f0001"

Encode = Callable[[str], list[int]]


class ControlTokens:
    """The control tokens of one tokenizer: where they may come from, and how they are encoded otherwise."""

    def __init__(self, tokens: Iterable[str], *, encode: Encode, encode_as_text: Encode) -> None:
        """Guard `tokens`.

        Args:
            tokens: The texts of the control tokens.
            encode: Encodes and knows the added tokens.
            encode_as_text: Encodes and knows none of them.
        """
        longest_first = sorted(tokens, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._token = re.compile(pattern)
        self._marker = re.compile(f"{_START}({pattern}){_END}|[{_START}{_END}]")
        self._encode = encode
        self._encode_as_text = encode_as_text

    def occur_in(self, values: Any) -> bool:
        """Say whether a control token stands in any string of `values`, dictionary keys included."""
        if isinstance(values, str):
            return self._token.search(_without_markers(values)) is not None
        if isinstance(values, dict):
            return any(self.occur_in(key) or self.occur_in(value) for key, value in values.items())
        return isinstance(values, list) and any(self.occur_in(value) for value in values)

    def mark(self, values: Any) -> Any:
        """Return `values` with the control tokens wrapped in every string.

        The keys that templates ask for hold no control token, so they stay as they are.
        """
        if isinstance(values, str):
            return self._token.sub(f"{_START}\\g<0>{_END}", _without_markers(values))
        if isinstance(values, dict):
            return {self.mark(key): self.mark(value) for key, value in values.items()}
        if isinstance(values, list):
            return [self.mark(value) for value in values]
        return values

    def encode(self, rendered: str) -> list[int]:
        """Encode what the template made of marked values.

        A template may take the markers of a token apart (with `split`); such lone markers are dropped, but still keep
        the text on their two sides from joining into a token.

        Raises:
            InvalidRequest: a wrapped token cannot be spelled as text.
        """
        first, *rest = self._marker.split(rendered)
        ids = self._encode(first)
        for piece, is_wrapped in self._alternating(rest):
            ids += self._as_text(piece) if is_wrapped else self.continued(piece, self._encode)
        return ids

    def _as_text(self, token: str) -> list[int]:
        ids = self.continued(token, self._encode_as_text)
        if set(self._encode(token)) & set(ids):
            raise InvalidRequest(f"{token!r} is a control token of this model, not text", param="messages")
        return ids

    @staticmethod
    def _alternating(rest: list[str | None]) -> Iterator[tuple[str, bool]]:
        """Pair each non-empty piece with whether it was wrapped: re.split alternates wrapped token and plain text."""
        for i, piece in enumerate(rest):
            if piece:
                yield piece, i % 2 == 0

    def continued(self, piece: str, encode: Encode) -> list[int]:
        """Encode a piece from the middle of a text, without the space that SentencePiece puts before the start of one.

        Encoded after a newline, whose ids are taken away again.
        """
        newline = self._encode("\n")
        ids = encode("\n" + piece)
        return ids[len(newline) :] if ids[: len(newline)] == newline else encode(piece)


def _without_markers(text: str) -> str:
    """Drop markers that a user has typed, so that none can be forged."""
    return text.replace(_START, "").replace(_END, "")
