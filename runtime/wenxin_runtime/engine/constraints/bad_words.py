"""Sequences of tokens that an answer never completes."""

from collections import defaultdict, deque
from collections.abc import Iterable

from wenxin_runtime.engine.constraint import Bitmask
from wenxin_runtime.grammars import bitmask_of


class BadWords:
    """Bans the last token of a sequence wherever the answer ends with the others. As in vLLM the prompt is no part."""

    def __init__(self, words: Iterable[tuple[int, ...]], vocab_size: int) -> None:
        """Start an answer that is to hold none of `words`."""
        last_of: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for word in words:
            last_of[word[:-1]].add(word[-1])
        self._banned = {prefix: ~bitmask_of(last, vocab_size) for prefix, last in last_of.items()}
        self._sizes = sorted({len(prefix) for prefix in last_of})
        self._tail: deque[int] = deque(maxlen=max(self._sizes, default=0))

    def restrict(self, bitmask: Bitmask) -> None:
        """Take the banned tokens out of `bitmask`."""
        tail = tuple(self._tail)
        for size in self._sizes:
            allowed = self._banned.get(tail[len(tail) - size :]) if size <= len(tail) else None
            if allowed is not None:
                bitmask &= allowed

    def advance(self, token_id: int) -> None:
        """Take note of a token."""
        self._tail.append(token_id)
