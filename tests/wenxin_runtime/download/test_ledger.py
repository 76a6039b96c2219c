"""Chunks: whatever happens in whatever order, each byte is fetched once, and none that is missing counts as there."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wenxin_runtime.download.ledger import Ledger, Span, length

SIZES = st.integers(0, 10_000)
CHUNKS = st.integers(1, 500)
SPANS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)).map(lambda pair: (min(pair), max(pair))))


@given(SIZES, CHUNKS)
def test_the_chunks_of_a_file_are_all_of_it_once(size: int, chunk_bytes: int) -> None:
    ledger, spans = Ledger(size, chunk_bytes), []
    while (index := ledger.claim()) is not None:
        spans.append(ledger.span(index))
    assert [byte for start, end in spans for byte in range(start, end)] == list(range(size))


@given(SIZES, CHUNKS, SPANS)
def test_notes_made_with_chunks_of_another_size_never_claim_too_much(
    size: int, chunk_bytes: int, spans: list[Span]
) -> None:
    spans = [(start, min(end, size)) for start, end in spans if start < min(end, size)]
    ledger = Ledger(size, chunk_bytes, spans)
    noted = {byte for start, end in spans for byte in range(start, end)}
    assert length(spans) == len(noted)
    for index in range(-(-size // chunk_bytes)):
        assert ledger.holds(index) == noted.issuperset(range(*ledger.span(index)))
    assert ledger.bytes_there <= len(noted)


class Bookkeeping(RuleBasedStateMachine):
    """Claims, ends and failures in any order, against a plain model."""

    @initialize(size=SIZES, chunk_bytes=CHUNKS)
    def begin(self, size: int, chunk_bytes: int) -> None:
        self.ledger = Ledger(size, chunk_bytes)
        self.count = -(-size // chunk_bytes)
        self.there: set[int] = set()
        self.claimed: set[int] = set()

    @rule()
    def claim(self) -> None:
        first = self.ledger.first_open
        index = self.ledger.claim()
        assert index == first
        if index is None:
            assert len(self.there | self.claimed) == self.count
        else:
            assert index == min(set(range(self.count)) - self.there - self.claimed)
            self.claimed.add(index)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.claimed)))
        self.claimed.discard(index)
        if data.draw(st.booleans()):
            self.ledger.finish(index)
            self.there.add(index)
        self.ledger.release(index)

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def a_whole_stream_passes(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.count - 1))
        self.ledger.finish(index)
        self.there.add(index)
        self.claimed.discard(index)

    @rule()
    def reset(self) -> None:
        self.ledger.reset()
        self.there.clear()
        self.claimed.clear()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "ledger"):
            return
        spans = [self.ledger.span(index) for index in self.there]
        assert self.ledger.bytes_there == sum(end - start for start, end in spans)
        assert self.ledger.complete == (len(self.there) == self.count)


TestBookkeeping = Bookkeeping.TestCase
