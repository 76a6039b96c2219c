"""An answer's parts do not depend on how its text arrives, and none of its text is ever lost."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wenxin_runtime.ipc import TokenLogprobs
from wenxin_runtime.server.openai.json_object import JsonObjectReader
from wenxin_runtime.server.openai.parts import AnswerFormat, CallFormat, FormattedParts
from wenxin_runtime.server.openai.piece import CallPart, Piece, ScoredToken
from wenxin_runtime.server.openai.reasoning import ReasoningSplitter, Stage, stage_of
from wenxin_runtime.server.openai.segments import Kind, Segment
from wenxin_runtime.server.openai.tool_calls import ToolCallSplitter

TAGS = ["<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>"]
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": [1, "}"]}}\n</tool_call>\n'
SNIPPETS = [
    *TAGS,
    "\n",
    "\n\n",
    "a",
    "你好",
    "<",
    "</",
    "<th",
    "tool_call>",
    CALL,
    '{"name": "g"}',
    '{"name"',
    "1",
    "}",
]
ANSWER = st.lists(st.sampled_from(SNIPPETS), max_size=12).map("".join)
CUTS = st.lists(st.integers(0, 120), max_size=20)


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    edges = [0, *sorted({at for at in cuts if at < len(text)}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def shown(segments: list[Segment], kind: Kind) -> str:
    return "".join(segment.text for segment in segments if segment.shown and segment.kind is kind)


def split(text: str, stage: Stage = Stage.OPENED, cuts: Iterable[int] = ()) -> tuple[str, str]:
    """Return reasoning and content."""
    splitter = ReasoningSplitter(stage)
    segments = [segment for part in cut(text, cuts) for segment in splitter.push(part)] + splitter.finish()
    assert "".join(segment.text for segment in segments) == text
    return shown(segments, Kind.REASONING), shown(segments, Kind.CONTENT)


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("abc\n</think>\n\n<response>\ndef\n</response>\n", "abc", "def"),
        ("abc\n</think>\ndef", "abc", "def"),
        ("abc</think>def\n", "abc", "def\n"),
        ("\nabc\n\nd\n</think>\n\n\n<response>e\n\nf</response>", "abc\n\nd", "e\n\nf"),
        ("<think>\nabc</think>x", "abc", "x"),
        ("</think>x", "", "x"),
        ("abc</think>x</think>y", "abc", "x</think>y"),
        ("a</think>x <response>y</response>", "a", "x <response>y</response>"),
        ("a</think><response>x</response>\n<response>y</response>\nz", "a", "xyz"),
        ("a</think><response>x</respons", "a", "x</respons"),
        ("cut off in a thou", "cut off in a thou", ""),
        ("cut off\n</thi", "cut off\n</thi", ""),
        ("abc\n</think>\n\n<resp", "abc", "<resp"),
        ("abc\n</think>\n\n", "abc", ""),
        ("", "", ""),
    ],
)
def test_a_thought_and_its_answer_are_told_apart_without_their_markup(text: str, reasoning: str, content: str) -> None:
    assert split(text) == (reasoning, content)
    assert split(text, cuts=range(len(text))) == (reasoning, content)


@pytest.mark.parametrize(
    ("stage", "text", "expected"),
    [
        (Stage.OPENING, "<think>a</think>b", ("a", "b")),
        (Stage.OPENING, "\n<think>\na\n</think>\nb", ("a", "b")),
        (Stage.OPENING, "no thought <think>a</think>", ("", "no thought <think>a</think>")),
        (Stage.OPENING, "<response>\nb\n</response>", ("", "b")),
        (Stage.OPENING, "<thin", ("", "<thin")),
        (Stage.RESPONSE, "\nrest\n</response>\n", ("", "\nrest")),
        (Stage.CONTENT, "\n<think>rest", ("", "\n<think>rest")),
    ],
)
def test_where_an_answer_begins_decides_what_its_tags_mean(stage: Stage, text: str, expected: tuple[str, str]) -> None:
    assert split(text, stage) == expected


@pytest.mark.parametrize(
    ("prompt", "continued", "stage"),
    [
        ("assistant\n<think>\n", False, Stage.OPENED),
        ("assistant\n<think>", True, Stage.OPENED),
        ("assistant\n<think>\n\n</think>\n\n", False, Stage.OPENING),
        ("assistant\n<think></think><response>\n", False, Stage.RESPONSE),
        ("Assistant: ", False, Stage.OPENING),
        ("Assistant: the answer is", True, Stage.CONTENT),
        ("<response>\nno</response> a\n</think>\n<response>\nthe answer is", True, Stage.RESPONSE),
    ],
)
def test_the_prompt_tells_where_the_answer_begins(prompt: str, continued: bool, stage: Stage) -> None:
    assert stage_of(prompt, continued=continued) is stage


@given(text=ANSWER, cuts=CUTS, stage=st.sampled_from(Stage))
def test_reasoning_does_not_depend_on_how_the_text_is_cut(text: str, cuts: list[int], stage: Stage) -> None:
    assert split(text, stage, cuts) == split(text, stage)


def calls_of(parts: list[CallPart]) -> list[tuple[str, str]]:
    """Put the parts together as a client does, checking that each call begins with its id and name."""
    calls: list[tuple[str, str]] = []
    for part in parts:
        if part.index == len(calls):
            assert part.id is not None
            assert part.name is not None
            calls.append((part.name, part.arguments))
        else:
            assert (part.index, part.id, part.name) == (len(calls) - 1, None, None)
            calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    return calls


def find(
    text: str, cuts: Iterable[int] = (), *, eager: bool = False, only_one: bool = False
) -> tuple[str, list[tuple[str, str]]]:
    """Return content and calls."""
    splitter = ToolCallSplitter(eager=eager, only_one=only_one)
    segments: list[Segment] = []
    parts: list[CallPart] = []
    for part in cut(text, cuts):
        segments += splitter.push(part)
        parts += splitter.take_parts()
    segments += splitter.finish()
    parts += splitter.take_parts()
    assert splitter.finished or "".join(segment.text for segment in segments) == text
    assert splitter.called == bool(parts)
    return shown(segments, Kind.CONTENT), calls_of(parts)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", [("f", '{"x": [1, "}"]}')]),
        (CALL + CALL, "", [("f", '{"x": [1, "}"]}')] * 2),
        ("Let me see.\n\n" + CALL + "\nDone.\n", "Let me see.\n\nDone.\n", [("f", '{"x": [1, "}"]}')]),
        ("a" + CALL + CALL + "b", "a\nb", [("f", '{"x": [1, "}"]}')] * 2),
        ('<tool_call>{"name":"f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":{}}', "", [("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":{}}</tool_', "", [("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":{}} then', " then", [("f", "{}")]),
        ('<tool_call>{"arguments": {"a": {}}, "id": -1.5e3, "name" : "f"}</tool_call>', "", [("f", '{"a": {}}')]),
        ('<tool_call>{"name":"\\u4f60","arguments":{"\\"":[true,false,null,[],{},"\\n"]}}', "", None),
        ("<tool_call>" + CALL, "<tool_call>", [("f", '{"x": [1, "}"]}')]),
        ("<tool_call> is how calls begin", "<tool_call> is how calls begin", []),
        ("no call\n\n", "no call\n\n", []),
        ("cut <tool_", "cut <tool_", []),
        ("", "", []),
    ],
)
def test_calls_are_found_between_texts(
    text: str, content: str, calls: list[tuple[str, str]] | None, eager: bool
) -> None:
    found = find(text, eager=eager)
    assert found[0] == content
    if calls is not None:
        assert found[1] == calls
    for _, arguments in found[1]:
        json.loads(arguments)
    assert find(text, range(len(text)), eager=eager) == found


@pytest.mark.parametrize(
    "body",
    [
        "",
        "f(1)",
        '["f"]',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": [1]}',
        '{"name": 5, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "\\ud800"}',
        '{"name": "f", "name": "g"}',
        '{"name": "f", "arguments": {}, "arguments": {}}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": {"x": tru}}',
        '{"name": "f", "arguments": {"x": 01}}',
        '{"name": "f", "arguments": {"x": 1,}}',
        '{"name": "f", "arguments": {x: 1}}',
        '{"name": "f", "arguments": {"x" 1}}',
        '{"name": "f", "arguments": {"x": "\t"}}',
        '{"name": "f", "arguments": {"x": "\\x"}}',
        '{"name": "f", "arguments": {"x": "\\u12g4"}}',
        '{"name": "f", "arguments": {"x": [1 2]}}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": [1}}',
        '{"name": "f", "arguments": {"x": "cut off',
        '{"name": "f"',
    ],
)
def test_a_malformed_call_is_content_as_it_was_written(body: str) -> None:
    text = f"Look:\n<tool_call>\n{body}\n</tool_call>\n"
    assert find(text) == (text, [])


def test_a_call_that_goes_wrong_after_it_was_reported_never_looks_complete() -> None:
    content, calls = find('<tool_call>{"name": "f", "arguments": {"x": 1 "y": 2}}</tool_call>', eager=True)
    assert calls == [("f", '{"x": 1 ')]
    assert content == '"y": 2}}</tool_call>'


def test_where_one_call_is_wanted_the_first_one_ends_the_answer() -> None:
    splitter = ToolCallSplitter(only_one=True)
    splitter.push(CALL.removesuffix("\n</tool_call>\n"))
    assert splitter.finished
    assert splitter.push(CALL) == []
    assert find("a" + CALL + "b" + CALL, only_one=True) == ("a", [("f", '{"x": [1, "}"]}')])


def test_every_call_has_an_id_of_its_own() -> None:
    splitter = ToolCallSplitter()
    splitter.push(CALL * 20)
    ids = [part.id for part in splitter.take_parts() if part.id is not None]
    assert len(set(ids)) == 20
    assert all(call_id.startswith("call_") for call_id in ids)


@given(text=ANSWER, cuts=CUTS, eager=st.booleans())
@example(text="a\n" + CALL + "\n<tool", cuts=[], eager=True)
def test_calls_do_not_depend_on_how_the_text_is_cut(text: str, cuts: list[int], eager: bool) -> None:
    assert find(text, cuts, eager=eager) == find(text, eager=eager)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    arguments=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    name=st.text("abc_-1", min_size=1),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    cuts=CUTS,
)
def test_any_arguments_arrive_as_they_were_written(
    arguments: dict[str, Any], name: str, indent: int | None, ascii_only: bool, cuts: list[int]
) -> None:
    spelled = json.dumps({"name": name, "arguments": arguments}, indent=indent, ensure_ascii=ascii_only)
    for eager in (False, True):
        content, ((found, text),) = find(f"<tool_call>\n{spelled}\n</tool_call>", cuts, eager=eager)
        assert (content, found, json.loads(text)) == ("", name, arguments)


@given(value=st.dictionaries(st.text(max_size=5), JSON, max_size=3), changed=st.data())
def test_an_object_is_complete_exactly_where_json_says_so(value: dict[str, Any], changed: st.DataObject) -> None:
    text = json.dumps(value)
    at = changed.draw(st.integers(0, len(text) - 1))
    text = text[:at] + changed.draw(st.sampled_from('{}[]",:\\0e-. ')) + text[at + 1 :]
    reader = JsonObjectReader()
    try:
        for character in text:
            reader.feed(character)
        complete = reader.finished
    except ValueError:
        complete = False
    assert complete == is_object(text.strip(), text)


def is_object(text: str, written: str) -> bool:
    try:
        return isinstance(json.loads(text), dict) and not written[-1].isspace()
    except ValueError:
        return False


def parts_of(tokens: list[str], answer_format: AnswerFormat, *, finish: bool = True) -> tuple[Piece, FormattedParts]:
    parts, piece = FormattedParts(answer_format), Piece(0)
    for number, text in enumerate(tokens):
        parts.token(ScoredToken(number, TokenLogprobs(-0.5, 1), 0), len(text), piece)
        parts.text(text, piece)
    if finish:
        parts.finish(piece)
    return piece, parts


EVERYTHING = AnswerFormat(stage=Stage.OPENED, calls=CallFormat(eager=True, only_one=False))


def test_logprobs_are_those_of_the_content_and_come_with_its_text() -> None:
    tokens = ["hm", "m\n", "</th", "ink>", "\n\n", "<response>", "\nY", "", "", "é", "s\n", "</response>", "\n", ""]
    piece, parts = parts_of(tokens, EVERYTHING)
    assert (piece.reasoning, piece.text) == ("hmm", "Yés")
    assert "".join(tokens[token.token_id] for token in piece.scored) == "\nYés\n"
    assert [token.token_id for token in piece.scored] == [6, 7, 8, 9, 10]
    assert parts.reasoning_tokens == 4


def test_a_token_held_back_brings_its_logprobs_when_it_is_shown() -> None:
    piece, _ = parts_of(["</think>", "a", "<tool"], EVERYTHING, finish=False)
    assert (piece.text, [token.token_id for token in piece.scored]) == ("a", [1])
    piece, _ = parts_of(["</think>", "a", "<tool"], EVERYTHING)
    assert (piece.text, [token.token_id for token in piece.scored]) == ("a<tool", [1, 2])


def test_tokens_of_calls_have_no_logprobs_and_are_no_reasoning() -> None:
    piece, parts = parts_of(["x", "</think>", "\n\n", "ok\n", CALL, ""], EVERYTHING)
    assert [token.token_id for token in piece.scored] == [3]
    assert (piece.text, calls_of(piece.calls)) == ("ok", [("f", '{"x": [1, "}"]}')])
    assert (parts.reasoning_tokens, parts.called) == (2, True)


def test_the_token_that_ends_an_answer_goes_with_what_came_before_it() -> None:
    assert [token.token_id for token in parts_of(["</think>", "a", ""], EVERYTHING)[0].scored] == [1, 2]
    piece, parts = parts_of(["hm", ""], EVERYTHING)
    assert (piece.scored, parts.reasoning_tokens) == ([], 2)


def test_reasoning_that_is_not_wanted_is_counted_and_not_shown() -> None:
    piece, parts = parts_of(["hm", "</think>", "a"], AnswerFormat(stage=Stage.OPENED, include_reasoning=False))
    assert (piece.reasoning, piece.text, parts.reasoning_tokens) == ("", "a", 2)


@given(text=ANSWER, cuts=CUTS, eager=st.booleans(), stage=st.none() | st.sampled_from(Stage))
def test_an_answers_parts_do_not_depend_on_its_tokens(
    text: str, cuts: list[int], eager: bool, stage: Stage | None
) -> None:
    answer_format = AnswerFormat(stage=stage, calls=CallFormat(eager=eager, only_one=False))
    whole, _ = parts_of([text], answer_format)
    tokens = cut(text, cuts)
    piece, parts = parts_of(tokens, answer_format)
    assert (piece.reasoning, piece.text) == (whole.reasoning, whole.text)
    assert calls_of(piece.calls) == calls_of(whole.calls)
    numbers = [token.token_id for token in piece.scored]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + parts.reasoning_tokens <= len(tokens)
