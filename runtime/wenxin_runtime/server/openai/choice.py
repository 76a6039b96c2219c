"""One sequence's tokens to one choice: detokenised, cut at stop strings, sorted into parts, with logprobs in step."""

from wenxin_runtime.ipc import Delta
from wenxin_runtime.server.generation import Generation
from wenxin_runtime.server.openai.parts import parts_of
from wenxin_runtime.server.openai.piece import Piece, ScoredToken
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.tokenizer import Detokenizer, StopStrings, Tokenizer


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
        self._parts = parts_of(plan.answer_format)
        # Nothing in the text ends it or is told apart from the rest, so tokens need not be looked at one by one.
        self._plain = not plan.stop and plan.answer_format is None
        self._detokenizer = Detokenizer(
            tokenizer.pieces,
            skip_special_tokens=plan.skip_special_tokens,
            shown=plan.answer_format.shown_ids if plan.answer_format is not None else frozenset(),
            context=prompt.ids,
        )

    @property
    def reasoning_tokens(self) -> int:
        """Generated tokens that belong to the reasoning, as far as their text is sorted."""
        return self._parts.reasoning_tokens

    def push(self, delta: Delta, piece: Piece, generation: Generation) -> None:
        """Add what `delta` brings to `piece`; a choice that ends before its sequence ends that in `generation` too."""
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
        piece.prompt_logprobs = delta.prompt_logprobs
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
        if self._plain and delta.logprobs is None:
            self._push_at_once(delta, piece)
            return
        for position, token_id in enumerate(delta.token_ids):
            self.tokens += 1
            piece.token_ids.append(token_id)
            logprobs = None if delta.logprobs is None else delta.logprobs[position]
            is_end = delta.stop_token_id is not None and position == len(delta.token_ids) - 1
            text = "" if is_end and not self._plan.include_stop else self._detokenizer.feed(token_id)
            scored = None if logprobs is None else ScoredToken(token_id, logprobs, self._characters)
            self._parts.token(scored, len(text), piece)
            self._characters += len(text)
            if self._show(text, piece):
                return  # tokens behind the end were never asked for

    def _push_at_once(self, delta: Delta, piece: Piece) -> None:
        self.tokens += len(delta.token_ids)
        piece.token_ids += delta.token_ids
        silent = delta.stop_token_id is not None and not self._plan.include_stop
        text = self._detokenizer.feed_all(delta.token_ids[:-1] if silent else delta.token_ids)
        self._characters += len(text)
        self._parts.text(text, piece)

    def _show(self, text: str, piece: Piece) -> bool:
        """Show `text` up to what ends the choice: a stop string, or a tool call where one is all that is wanted."""
        if self.tokens <= self._plan.sampling.min_tokens:
            self._parts.text(self._stops.skip(text), piece)
            return False
        scan = self._stops.push(text)
        self._parts.text(scan.text, piece)
        if scan.matched is None and not self._parts.finished:
            return False
        self._end("stop", piece)
        piece.stop_reason = scan.matched
        return True

    def _finish(self, delta: Delta, piece: Piece) -> None:
        self._parts.text(self._stops.flush(), piece)
        self._end(delta.finish_reason, piece)
        if delta.stop_token_id in self._plan.sampling.stop_token_ids:
            piece.stop_reason = delta.stop_token_id

    def _end(self, reason: str | None, piece: Piece) -> None:
        self._parts.finish(piece)
        self.finished = True
        piece.finish_reason = "tool_calls" if reason == "stop" and self._parts.called else reason
