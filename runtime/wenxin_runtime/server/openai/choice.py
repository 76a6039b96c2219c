"""One sequence's tokens to the text of one choice: detokenised, cut at stop strings, with its logprobs in step."""

from dataclasses import dataclass, field
from typing import NamedTuple

from wenxin_runtime.ipc import Delta, TokenLogprobs
from wenxin_runtime.server.generation import Generation
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.tokenizer import Detokenizer, StopStrings, Tokenizer


class ScoredToken(NamedTuple):
    """A token with its logprobs (None for a prompt's first token) and the characters of the choice before it."""

    token_id: int
    logprobs: TokenLogprobs | None
    offset: int


@dataclass(slots=True)
class Piece:
    """What some steps added to one choice. `opening` marks the piece that holds the choice's beginning."""

    index: int
    opening: bool = False
    parts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def text(self) -> str:
        """The added text."""
        return "".join(self.parts)


class Choice:
    """One choice while it grows.

    Attributes:
        tokens: Generated tokens so far, the one that ended the choice included.
        cached_tokens: Tokens of the prompt that the prefix cache had.
        finished: Whether the finish reason is known.
    """

    def __init__(self, index: int, plan: Plan, tokenizer: Tokenizer) -> None:
        prompt = plan.prompt_of(index)
        self.tokens = 0
        self.cached_tokens = 0
        self.finished = False
        self._index = index
        self._plan = plan
        self._tokenizer = tokenizer
        self._opened = False
        self._characters = 0
        self._stops = StopStrings(plan.stop, include=plan.include_stop)
        self._detokenizer = Detokenizer(
            tokenizer.pieces, skip_special_tokens=plan.skip_special_tokens, context=prompt.ids
        )

    def push(self, delta: Delta, piece: Piece, generation: Generation) -> None:
        """Add what `delta` brings to `piece`; a stop string found in it ends the sequence in `generation` too."""
        if not self._opened:
            self._open(delta, piece)
        self.cached_tokens = max(self.cached_tokens, delta.cached_tokens)
        self._push_tokens(delta, piece)
        if self.finished and delta.finish_reason is None:
            generation.stop(self._index)
        elif delta.finish_reason is not None and not self.finished:
            self._finish(delta, piece)

    def _open(self, delta: Delta, piece: Piece) -> None:
        self._opened = piece.opening = True
        if not self._plan.echo:
            return
        prompt = self._plan.prompt_of(self._index)
        skip = self._plan.skip_special_tokens
        text = prompt.text
        if text is None:
            text = self._tokenizer.decode(prompt.ids, skip_special_tokens=skip)
        piece.parts.append(text)
        if delta.prompt_logprobs is not None:
            detokenizer = Detokenizer(self._tokenizer.pieces, skip_special_tokens=skip)
            offset = 0
            for token_id, logprobs in zip(prompt.ids, delta.prompt_logprobs, strict=True):
                piece.scored.append(ScoredToken(token_id, logprobs, offset))
                offset += len(detokenizer.feed(token_id))
        self._characters = len(text)

    def _push_tokens(self, delta: Delta, piece: Piece) -> None:
        for position, token_id in enumerate(delta.token_ids):
            self.tokens += 1
            piece.token_ids.append(token_id)
            if delta.logprobs is not None:
                piece.scored.append(ScoredToken(token_id, delta.logprobs[position], self._characters))
            is_end = delta.stop_token_id is not None and position == len(delta.token_ids) - 1
            text = "" if is_end and not self._plan.include_stop else self._detokenizer.feed(token_id)
            self._characters += len(text)
            if self._show(text, piece):
                return  # tokens behind a stop string were never asked for

    def _show(self, text: str, piece: Piece) -> bool:
        """Show `text` up to a stop string; return whether there was one."""
        if self.tokens <= self._plan.sampling.min_tokens:
            piece.parts.append(self._stops.skip(text))
            return False
        scan = self._stops.push(text)
        piece.parts.append(scan.text)
        if scan.matched is None:
            return False
        self.finished = True
        piece.finish_reason, piece.stop_reason = "stop", scan.matched
        return True

    def _finish(self, delta: Delta, piece: Piece) -> None:
        if self._show(self._detokenizer.finish(), piece):
            return
        piece.parts.append(self._stops.flush())
        self.finished = True
        piece.finish_reason = delta.finish_reason
        if delta.stop_token_id in self._plan.sampling.stop_token_ids:
            piece.stop_reason = delta.stop_token_id
