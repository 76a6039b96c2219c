"""Streams of text: whole characters only, and in the end the text of the whole."""

import functools
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenxin_runtime.tokenizer import Detokenizer, StopStrings, Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("北京😀👍🏽é <0x\n"), max_size=40)


@functools.cache
def load(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True, context: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer.pieces, skip_special_tokens=skip, context=context or [])
    return [detokenizer.feed(token_id) for token_id in ids]


@settings(max_examples=150, deadline=None)
@given(prompt=TEXT, answer=TEXT, skip=st.booleans())
@pytest.mark.parametrize("family", ["byte_fallback", "byte_level", "metaspace_with_bos"])
def test_an_answer_reads_as_the_tail_of_the_whole_text(
    checkpoints: dict[str, Path], family: str, prompt: str, answer: str, skip: bool
) -> None:
    tokenizer = load(checkpoints[family])
    before, after = tokenizer.encode("x" + prompt), tokenizer.encode(answer)
    whole = tokenizer.decode(before + after, skip_special_tokens=skip)
    start = tokenizer.decode(before, skip_special_tokens=skip)
    assert start + "".join(stream(tokenizer, after, skip=skip, context=before)) == whole


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 605), max_size=40))
def test_any_ids_of_a_byte_level_tokenizer_read_as_their_decoding(checkpoints: dict[str, Path], ids: list[int]) -> None:
    tokenizer = load(checkpoints["byte_level"])
    decoded, shown = tokenizer.decode(ids), "".join(stream(tokenizer, ids))
    assert decoded.startswith(shown)
    assert decoded[len(shown) :] in ("", *("\ufffd" * count for count in (1, 2, 3))), (
        "only what was left open is missing"
    )


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
@pytest.mark.parametrize("family", ["byte_fallback", "byte_level", "metaspace_with_bos"])
def test_no_chunk_of_valid_text_ever_shows_half_a_character(
    checkpoints: dict[str, Path], family: str, text: str
) -> None:
    tokenizer = load(checkpoints[family])
    clean = text.replace("\ufffd", "")
    assert "\ufffd" not in "".join(stream(tokenizer, tokenizer.encode(clean), skip=False))


def test_a_character_is_shown_with_the_token_that_completes_it(checkpoints: dict[str, Path]) -> None:
    tokenizer = load(checkpoints["byte_fallback"])
    bytes_of_face = [tokenizer._backend.token_to_id(f"<0x{value:02X}>") for value in "😀".encode()]
    assert stream(tokenizer, bytes_of_face) == ["", "", "", "😀"]


def test_invalid_bytes_are_replaced_without_spoiling_their_neighbours(checkpoints: dict[str, Path]) -> None:
    tokenizer = load(checkpoints["byte_fallback"])
    ids = [tokenizer._backend.token_to_id(f"<0x{value:02X}>") for value in b"\xff" + "中".encode() + b"\xe4"]
    assert "".join(stream(tokenizer, ids)) == "\ufffd中"


def test_a_character_that_the_prompt_left_open_is_completed_by_the_answer(checkpoints: dict[str, Path]) -> None:
    tokenizer = load(checkpoints["byte_fallback"])
    first, *rest = [tokenizer._backend.token_to_id(f"<0x{value:02X}>") for value in "中".encode()]
    assert "".join(stream(tokenizer, rest, context=[first])) == "中"


def test_an_id_beyond_the_tokenizer_adds_no_text(checkpoints: dict[str, Path]) -> None:
    tokenizer = load(checkpoints["byte_fallback"])
    assert stream(tokenizer, [10**6]) == [""]


def test_special_tokens_are_text_only_on_demand(checkpoints: dict[str, Path]) -> None:
    tokenizer = load(checkpoints["byte_level"])
    ids = tokenizer.encode("a</s>b")
    assert "".join(stream(tokenizer, ids)) == "ab"
    assert "".join(stream(tokenizer, ids, skip=False)) == "a</s>b"


def scan(stops: list[str], pieces: list[str], *, include: bool = False) -> tuple[str, str | None]:
    scanner = StopStrings(stops, include=include)
    shown = ""
    for piece in pieces:
        found = scanner.push(piece)
        shown += found.text
        if found.matched is not None:
            return shown, found.matched
    return shown + scanner.flush(), None


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["END"], ["a E", "N", "D b"], ("a ", "END")),
        (["END"], ["a E", "N", "x"], ("a ENx", None)),
        (["aab"], ["a", "a", "a", "b"], ("a", "aab")),
        (["bc", "abcd"], ["ab", "cd"], ("a", "bc")),
        (["cd", "bcd"], ["ab", "c", "d"], ("a", "bcd")),
        (["\n\n", "\nUser:"], ["x\n", "User", ":y"], ("x", "\nUser:")),
        (["x"], ["", "abc"], ("abc", None)),
        ([], ["abc", "x"], ("abcx", None)),
    ],
)
def test_the_stop_string_that_is_complete_first_ends_the_text(
    stops: list[str], pieces: list[str], expected: tuple[str, str | None]
) -> None:
    assert scan(stops, pieces) == expected


def test_the_found_stop_string_is_kept_on_demand() -> None:
    assert scan(["END"], ["a E", "ND b"], include=True) == ("a END", "END")


def test_text_before_min_tokens_never_stops_the_answer() -> None:
    scanner = StopStrings(["END"])
    assert scanner.skip("an END") == "an END"
    assert scanner.push("D EN").text == "D "
    assert scanner.flush() == "EN"


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30)),
    include=st.booleans(),
)
def test_the_result_does_not_depend_on_how_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert scan(stops, pieces, include=include) == scan(stops, [text], include=include)


@given(text=st.text("abc", max_size=30), stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_shown_before_a_stop_string_holds_no_stop_string(text: str, stops: list[str]) -> None:
    shown, matched = scan(stops, list(text))
    assert not any(stop in shown for stop in stops)
    assert matched is not None or shown == text
