"""Which chunks of one file are there, and which are being fetched. Plain bookkeeping: no files, no network."""

import bisect
from collections.abc import Iterable

Span = tuple[int, int]
"""Bytes from the first up to, not including, the second."""


class Ledger:
    """The chunks of one file of `size` bytes; all have `chunk_bytes` but the last. An empty file has none.

    Each chunk is open, claimed or there; `claim` gives an open one to exactly one caller, lowest first.
    """

    def __init__(self, size: int, chunk_bytes: int, there: Iterable[Span] = ()) -> None:
        """Begin with the chunks that lie wholly in the spans `there`, which may overlap and come in any order."""
        self.size = size
        self.chunk_bytes = chunk_bytes
        self._there = _covered(size, chunk_bytes, _merged(there))
        self._claimed: set[int] = set()
        self._open = [index for index in range(self._count) if index not in self._there]

    @property
    def _count(self) -> int:
        return -(-self.size // self.chunk_bytes)

    @property
    def bytes_there(self) -> int:
        """Size of the chunks that are there."""
        last = self._count - 1
        missing_of_last = self._count * self.chunk_bytes - self.size if last in self._there else 0
        return len(self._there) * self.chunk_bytes - missing_of_last

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return len(self._there) == self._count

    @property
    def first_open(self) -> int | None:
        """The chunk that `claim` would give."""
        return self._open[0] if self._open else None

    def index_of(self, offset: int) -> int:
        """Say which chunk the byte at `offset` lies in."""
        return offset // self.chunk_bytes

    def span(self, index: int) -> Span:
        """Say where chunk `index` lies."""
        return index * self.chunk_bytes, min((index + 1) * self.chunk_bytes, self.size)

    def holds(self, index: int) -> bool:
        """Say whether chunk `index` is there."""
        return index in self._there

    def claim(self) -> int | None:
        """Take an open chunk, to be finished or released; None when there is none."""
        if not self._open:
            return None
        index = self._open.pop(0)
        self._claimed.add(index)
        return index

    def finish(self, index: int) -> None:
        """Note that chunk `index` is there, whoever has fetched it."""
        self._claimed.discard(index)
        if index not in self._there:
            self._there.add(index)
            self._forget_open(index)

    def release(self, index: int) -> None:
        """Give a claimed chunk back that has not arrived."""
        if index in self._claimed:
            self._claimed.discard(index)
            bisect.insort(self._open, index)

    def reset(self) -> None:
        """Begin anew: nothing is there, nothing claimed."""
        self._there.clear()
        self._claimed.clear()
        self._open = list(range(self._count))

    def _forget_open(self, index: int) -> None:
        place = bisect.bisect_left(self._open, index)
        if place < len(self._open) and self._open[place] == index:
            del self._open[place]


def length(spans: Iterable[Span]) -> int:
    """Count the bytes in `spans`, which may overlap."""
    return sum(end - start for start, end in _merged(spans))


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _covered(size: int, chunk_bytes: int, spans: list[Span]) -> set[int]:
    found: set[int] = set()
    for start, end in spans:
        first = -(-start // chunk_bytes)
        last = -(-size // chunk_bytes) if end >= size else end // chunk_bytes
        found.update(range(first, last))
    return found
