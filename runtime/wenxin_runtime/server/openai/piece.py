"""What some steps of the engine added to one choice, ready to be written."""

from dataclasses import dataclass, field
from typing import NamedTuple

from wenxin_runtime.ipc import TokenLogprobs


class ScoredToken(NamedTuple):
    """A token with its logprobs (None for a prompt's first token) and the characters of the choice before it."""

    token_id: int
    logprobs: TokenLogprobs | None
    offset: int


@dataclass(frozen=True, slots=True)
class CallPart:
    """What some text adds to a tool call: the first part has `id` and `name`, the later ones more of its arguments."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(slots=True)
class Piece:
    """What some steps added to one choice. `opening` marks the piece that holds the choice's beginning."""

    index: int
    opening: bool = False
    parts: list[str] = field(default_factory=list)
    reasoning_parts: list[str] = field(default_factory=list)
    calls: list[CallPart] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def text(self) -> str:
        """The added text."""
        return "".join(self.parts)

    @property
    def reasoning(self) -> str:
        """The added reasoning."""
        return "".join(self.reasoning_parts)
