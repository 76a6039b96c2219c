"""A grammar and where one answer stands in it."""

from collections.abc import Iterable

from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask

from wenxin_runtime.engine.constraint import Bitmask
from wenxin_runtime.grammars import Grammars, bitmask_of, readable


class Following:
    """An answer that follows a grammar."""

    def __init__(self, matcher: LLMatcher, grammars: Grammars, ending_ids: Iterable[int], vocab_size: int) -> None:
        """Start an answer.

        Args:
            matcher: The compiled grammar, at its start and nobody else's.
            grammars: Where it comes from.
            ending_ids: The request's EOS and stop tokens. They are allowed where the grammar may end.
            vocab_size: Columns of the logits.
        """
        self._matcher = matcher
        self._end_id = grammars.end_ids[0]
        self._ending_ids = frozenset(ending_ids)
        self._without_ends = ~bitmask_of(grammars.end_ids, vocab_size)
        self._endings = bitmask_of(self._ending_ids, vocab_size)

    @property
    def finished(self) -> bool:
        """Whether the grammar is complete and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def problem(self) -> str | None:
        """Why the grammar cannot be followed any further, where it cannot."""
        return f"the grammar cannot be followed: {readable(self._matcher.get_error())}" if self._failed else None

    @property
    def _failed(self) -> bool:
        return self._matcher.is_error()

    def fill(self, bitmask: Bitmask) -> None:
        """Write down what the grammar lets follow; nothing where there is a problem."""
        fill_next_token_bitmask(self._matcher, bitmask[None])
        if self._failed:
            bitmask.fill(0)
            return
        may_end = bool(bitmask[self._end_id // 32] >> (self._end_id % 32) & 1)
        bitmask &= self._without_ends
        if may_end:
            bitmask |= self._endings

    def advance(self, token_id: int) -> None:
        """Take note of a token. One that ends the answer is none of the grammar's."""
        if token_id not in self._ending_ids:
            self._matcher.consume_token(token_id)
