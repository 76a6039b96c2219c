"""All that binds one answer, as one mask."""

from dataclasses import dataclass, field

from wenxin_runtime.engine.constraint import Bitmask
from wenxin_runtime.engine.constraints.bad_words import BadWords
from wenxin_runtime.engine.constraints.following import Following
from wenxin_runtime.engine.constraints.thinking import Thinking
from wenxin_runtime.grammars import bitmask_of


@dataclass(slots=True, kw_only=True)
class BoundAnswer:
    """A token may come next where everything that is here allows it.

    Attributes:
        vocab_size: Columns of the logits.
        unended: All tokens but EOS, which may not end the thinking where a grammar is still to be followed.
        thinking: Comes first. The grammar counts only once it is over.
        following: The grammar.
        allowed: The tokens of allowed_token_ids.
        bad_words: What must not be written.
        problem: Why nothing may come next, once that is so.
    """

    vocab_size: int
    unended: Bitmask
    thinking: Thinking | None = None
    following: Following | None = None
    allowed: Bitmask | None = None
    bad_words: BadWords | None = None
    problem: str | None = field(default=None, init=False)

    @property
    def finished(self) -> bool:
        """Whether the grammar is complete and nothing can follow."""
        return self._answers and self.following is not None and self.following.finished

    def fill(self, bitmask: Bitmask) -> bool:
        """Write down what may come next, into all words of `bitmask`; False where everything may."""
        forced = self.thinking.forced if self.thinking is not None else None
        if forced is not None:  # whatever else was asked for: the budget is a promise
            bitmask[:] = bitmask_of([forced], self.vocab_size)
            return True
        followed, restricted = self._follow(bitmask), self._restrict(bitmask)
        if not bitmask.any():
            self.problem = self._why_nothing(restricted=restricted)
        return followed or restricted

    def advance(self, token_id: int) -> None:
        """Take note of the token that was chosen."""
        if self.bad_words is not None:
            self.bad_words.advance(token_id)
        if self.thinking is not None and not self.thinking.over:
            self.thinking.advance(token_id)
        elif self.following is not None:
            self.following.advance(token_id)

    @property
    def _answers(self) -> bool:
        return self.thinking is None or self.thinking.over

    def _follow(self, bitmask: Bitmask) -> bool:
        if self.following is None or not self._answers:
            bitmask[:] = self.unended if self.following is not None else -1
        else:
            self.following.fill(bitmask)
        return self.following is not None

    def _restrict(self, bitmask: Bitmask) -> bool:
        if self.allowed is not None:
            bitmask &= self.allowed
        if self.bad_words is not None:
            self.bad_words.restrict(bitmask)
        return self.allowed is not None or self.bad_words is not None

    def _why_nothing(self, *, restricted: bool) -> str:
        if self.following is None:
            return "allowed_token_ids and bad_words leave no token"
        if restricted and self.following.problem is None:
            return "allowed_token_ids and bad_words leave no token that the grammar allows"
        return self.following.problem or "the grammar leaves no token"
