"""Find the strings that end an answer, however the text is cut into pieces."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scan:
    """Text that may be shown now, and the stop string that was found, if one was."""

    text: str
    matched: str | None = None


class StopStrings:
    """A scanner over one answer.

    The stop string that is complete first wins, the longest where several end at the same character, so the result
    does not depend on how the text arrives. Text that may yet become a stop string is held back.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """Look for `stops`, none of them empty; `include` keeps the found one in the text."""
        self._stops = tuple(stops)
        self._include = include
        self._held = ""

    def push(self, text: str) -> Scan:
        """Add text; return what may be shown."""
        if not self._stops:
            return Scan(text)
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, start, stop = min(found)
            self._held = ""
            return Scan(text[: end if self._include else start], stop)
        keep = possible_start(text, self._stops)
        self._held = text[len(text) - keep :]
        return Scan(text[: len(text) - keep])

    def skip(self, text: str) -> str:
        """Add text in which no stop string counts (min_tokens is not reached); return what may be shown."""
        held, self._held = self._held, ""
        return held + text

    def flush(self) -> str:
        """The answer ended otherwise: return what was held back."""
        return self.skip("")


def possible_start(text: str, words: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that begins one of `words` and is not the whole of it."""
    longest = min(len(text), max(len(word) for word in words) - 1)
    return next((size for size in range(longest, 0, -1) if any(word.startswith(text[-size:]) for word in words)), 0)
