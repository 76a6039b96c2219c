import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenxin_runtime.ipc import Delta, TokenLogprobs
from wenxin_runtime.server.answers.entry import Kept, Recording, pack, unpack

KEY, OTHER = b"k" * 32, b"o" * 32
SEQUENCES = (Kept((5, 6), "length", None, 0, None, None), Kept((7,), "stop", 7, 3, (TokenLogprobs(-0.5, 1),), None))


def test_what_is_packed_comes_back():
    assert unpack(KEY, pack(KEY, SEQUENCES), 2) == SEQUENCES


@given(st.data())
def test_one_flipped_bit_anywhere_is_a_miss(data):
    raw = bytearray(pack(KEY, SEQUENCES))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert unpack(KEY, bytes(raw), 2) is None


@given(st.binary(max_size=200))
def test_anything_else_is_a_miss(raw):
    assert unpack(KEY, raw, 2) is None


def test_another_requests_entry_under_this_name_is_a_miss():
    assert unpack(OTHER, pack(KEY, SEQUENCES), 2) is None


def test_fewer_sequences_than_were_asked_for_are_a_miss():
    assert unpack(KEY, pack(KEY, SEQUENCES), 3) is None


deltas = st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), min_size=1, max_size=6)


@given(deltas, st.booleans())
def test_a_sequence_is_kept_whole_however_it_came(parts, scored):
    recording = Recording(1)
    for number, token_ids in enumerate(parts):
        logprobs = tuple(TokenLogprobs(-float(token), 1) for token in token_ids) if scored else None
        last = number == len(parts) - 1
        delta = Delta("a", token_ids=token_ids, logprobs=logprobs, finish_reason="length" if last else None)
        recording.add(0, msgspec.structs.replace(delta, cached_tokens=4 if number == 0 else 0))
    assert recording.complete
    (kept,) = recording.kept()
    whole = tuple(token for part in parts for token in part)
    assert (kept.token_ids, kept.finish_reason, kept.cached_tokens) == (whole, "length", 4)
    assert kept.logprobs == (tuple(TokenLogprobs(-float(token), 1) for token in whole) if scored else None)
    assert kept.delta("b").token_ids == whole


def test_what_comes_behind_a_stop_string_is_not_kept():
    recording = Recording(2)
    recording.add(0, Delta("a", token_ids=(1, 2)))
    recording.stop(0)
    recording.add(0, Delta("a", token_ids=(3,), finish_reason="length"))
    assert not recording.complete
    with pytest.raises(ValueError, match="not ended"):
        recording.kept()
    recording.add(1, Delta("b", token_ids=(4,), finish_reason="stop", stop_token_id=4))
    assert [(kept.token_ids, kept.finish_reason) for kept in recording.kept()] == [((1, 2), "stop"), ((4,), "stop")]
