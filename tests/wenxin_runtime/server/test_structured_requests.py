"""What a request asks its answer to look like: read, checked and refused before a place is taken."""

import asyncio
import json
import threading
from typing import Any

import pytest

from tests.wenxin_runtime.server.conftest import Running
from tests.wenxin_runtime.server.test_bad_input import HELLO, check_refused
from wenxin_runtime import fixture
from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.grammars import MAX_GRAMMAR_BYTES, Grammars
from wenxin_runtime.ipc import SamplingParams, Structured
from wenxin_runtime.server.openai import structured
from wenxin_runtime.server.openai.structured import ToolSpec, tool_call_grammar
from wenxin_runtime.tokenizer import Tokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}


def json_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, **more}}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


SCHEMA = "response_format.json_schema.schema"
LARGE = "x" * (MAX_GRAMMAR_BYTES + 1)

REFUSED = [
    ({"response_format": "json"}, "response_format", "object"),
    ({"response_format": {}}, "response_format.type", "required"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, SCHEMA, "required"),
    (json_schema([]), SCHEMA, "must be a JSON schema"),
    (json_schema(True), SCHEMA, "must be a JSON schema"),
    (json_schema("no json"), SCHEMA, "is no JSON"),
    (json_schema({"type": "strin"}), SCHEMA, "Invalid type: strin"),
    (json_schema({"type": "string", "minLength": 5, "maxLength": 2}), SCHEMA, "minLength (5) is greater"),
    (json_schema({"type": "array", "uniqueItems": True}), SCHEMA, "uniqueItems is not supported"),
    (json_schema(nested(200)), SCHEMA, "nested deeper"),
    (json_schema({"description": LARGE}), SCHEMA, "too large"),
    ({"guided_json": [1]}, "guided_json", "must be a JSON schema"),
    ({"guided_json": '{"type"'}, "guided_json", "is no JSON"),
    ({"guided_json": LARGE}, "guided_json", "too large"),
    ({"guided_regex": "("}, "guided_regex", "unclosed group"),
    ({"guided_regex": ""}, "guided_regex", "empty"),
    ({"guided_regex": LARGE}, "guided_regex", "too large"),
    ({"guided_regex": 7}, "guided_regex", "str"),
    ({"guided_choice": []}, "guided_choice", "at least one"),
    ({"guided_choice": ["a", ""]}, "guided_choice[1]", "empty"),
    ({"guided_choice": ["a", 7]}, "guided_choice[1]", "str"),
    ({"guided_choice": [LARGE]}, "guided_choice", "too large"),
    ({"guided_grammar": " "}, "guided_grammar", "empty"),
    ({"guided_grammar": "start: foo"}, "guided_grammar", "unknown name"),
    ({"guided_grammar": 'root ::= "a'}, "guided_grammar", ""),
    ({"guided_grammar": LARGE}, "guided_grammar", "too large"),
    ({"structured_outputs": {}}, "structured_outputs", "must hold one of"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unclosed group"),
    ({"structured_outputs": {"json": 7}}, "structured_outputs.json", "must be a JSON schema"),
    ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice", "array"),
    ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not supported"),
    (
        {"structured_outputs": {"json": {"type": "object"}, "whitespace_pattern": "("}},
        "structured_outputs.json",
        "unclosed group",
    ),
    ({"allowed_token_ids": []}, "allowed_token_ids", "at least one"),
    ({"allowed_token_ids": [1536]}, "allowed_token_ids", "outside the vocabulary"),
    ({"allowed_token_ids": [-1]}, "allowed_token_ids[0]", ""),
    ({"bad_words": [" "]}, "bad_words[0]", "white space"),
    ({"bad_words": ["a"] * 1001}, "bad_words", "1000"),
    ({"bad_words": "a"}, "bad_words", "array"),
]

TOGETHER = [
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex", "guided_choice"),
    ({**json_schema(PERSON), "guided_json": PERSON}, SCHEMA, "guided_json"),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "response_format",
        "structured_outputs.regex",
    ),
    (
        {"structured_outputs": {"json_object": True, "grammar": "a"}},
        "structured_outputs.grammar",
        "structured_outputs.json_object",
    ),
]


@pytest.mark.parametrize(("changes", "param", "reason"), REFUSED, ids=lambda value: str(value)[:40])
async def test_what_cannot_be_fulfilled_is_refused_with_the_field_and_the_reason(
    server: Running, changes: dict[str, Any], param: str, reason: str
) -> None:
    for path, basis in (("chat/completions", {"messages": HELLO}), ("completions", {"prompt": "hi"})):
        error = await check_refused(await server.post(path, **basis, **changes), param)
        assert reason in error["message"]
        assert len(error["message"]) < 500
    assert (await server.load())["waiting"] == 0


@pytest.mark.parametrize(("changes", "first", "second"), TOGETHER, ids=lambda value: str(value)[:40])
async def test_fields_that_exclude_each_other_are_both_named(
    server: Running, changes: dict[str, Any], first: str, second: str
) -> None:
    error = await check_refused(await server.post("completions", prompt="hi", **changes), second)
    assert first in error["message"]
    assert second in error["message"]


async def sampling_of(server: Running, **asked: Any) -> SamplingParams:
    """Submit a completion and see what the engine is told."""
    pending = server.posting("completions", prompt="hi", max_tokens=4, **asked)
    submitted = asyncio.create_task(server.engine.submit())
    await asyncio.wait({pending, submitted}, return_when=asyncio.FIRST_COMPLETED)
    assert submitted.done(), pending.result().text
    await server.engine.write(submitted.result(), 300, finish_reason="length")
    assert (await pending).status_code == 200
    return submitted.result().sampling


def writes(server: Running, sampling: SamplingParams, text: str) -> bool:
    """Say whether an answer may be `text`, by the grammar that the engine got."""
    assert sampling.structured is not None
    model = server.server.service.model
    assert model is not None
    matcher = model.grammars.matcher(sampling.structured.grammar)
    return matcher.consume_tokens(server.tokens(text)) and matcher.is_accepting()


FOLLOWED = [
    ({"response_format": {"type": "json_object"}}, ['{"a": [1, null]}', "{}"], ["[]", "1", "{", '{"a": 1} ']),
    (json_schema(PERSON, strict=True), ['{"name": "李", "age": 7}', '{"name":"x", "y":1}'], ['{"age": 7}', "{}"]),
    (json_schema(json.dumps(PERSON)), ['{"name": "李"}'], ["{}"]),
    ({"guided_json": PERSON}, ['{\n  "name": "李"\n}'], ['{"age":1}']),
    ({"guided_json": json.dumps(PERSON)}, ['{"name": "李"}'], ["{}"]),
    (
        {"guided_json": PERSON, "guided_whitespace_pattern": " "},
        ['{"name": "a"}'],
        ['{\n"name": "a"}', '{  "name": "a"}'],
    ),
    (
        {"guided_json": {"type": "array", "uniqueItems": False, "items": {"type": "integer", "format": "int32"}}},
        ["[1,1]"],
        ["[1.5]"],
    ),
    ({"guided_json": {"type": "string", "format": "password"}}, ['"a"'], ["1"]),
    (
        {"guided_json": {"type": "object", "properties": {"format": {"const": "int32"}}, "required": ["format"]}},
        ['{"format":"int32"}'],
        ['{"format":1}'],
    ),
    ({"guided_regex": "^[0-9]{3}-(a|b)$"}, ["123-a"], ["123", "123-ab"]),
    ({"guided_choice": ["是", "否", "是", 'a"b\\n\x7f']}, ["是", "否", 'a"b\\n\x7f'], ["不", "是否"]),
    ({"guided_grammar": 'start: "a" b+\nb: "b" | "c"'}, ["abc"], ["a", "b"]),
    ({"guided_grammar": 'root ::= "a" ("b" | "c")'}, ["ab", "ac"], ["a"]),
    (
        {"structured_outputs": {"json": PERSON, "disable_additional_properties": True}},
        ['{"name":"x"}'],
        ['{"name":"x", "y":1}'],
    ),
    ({"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}}, ['{"name":"x"}'], ['{"name": "x"}']),
    ({"structured_outputs": {"json_object": True, "json": None}}, ["{}"], ["[]"]),
    ({"structured_outputs": {"regex": "a|b"}, "guided_json": None}, ["b"], ["ab"]),
    ({"structured_outputs": {"choice": ["a"]}}, ["a"], ["b"]),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, ["a"], ["b"]),
]


@pytest.mark.parametrize(("asked", "allowed", "forbidden"), FOLLOWED, ids=lambda value: str(value)[:40])
async def test_every_spelling_of_a_wish_becomes_the_grammar_that_it_means(
    server: Running, asked: dict[str, Any], allowed: list[str], forbidden: list[str]
) -> None:
    sampling = await sampling_of(server, **asked)
    assert [text for text in allowed if not writes(server, sampling, text)] == []
    assert [text for text in forbidden if writes(server, sampling, text)] == []


async def test_white_space_in_json_is_bounded(server: Running) -> None:
    sampling = await sampling_of(server, response_format={"type": "json_object"})
    assert writes(server, sampling, "{" + " " * 64 + "}")
    assert not writes(server, sampling, "{" + " " * 65 + "}")


async def test_a_wish_for_text_or_none_asks_for_nothing(server: Running) -> None:
    none = {"guided_json": None, "structured_outputs": None, "allowed_token_ids": None, "bad_words": []}
    sampling = await sampling_of(server, response_format={"type": "text"}, **none)
    assert (sampling.structured, sampling.allowed_token_ids, sampling.bad_words_ids) == (None, None, ())


async def test_word_lists_reach_the_engine_as_tokens(server: Running) -> None:
    sampling = await sampling_of(server, allowed_token_ids=[5, 6, 5], bad_words=["weather", " 北京"])
    assert sampling.allowed_token_ids == (5, 6)
    assert sampling.bad_words_ids == tuple(
        tuple(server.tokens(text)) for text in ("weather", " weather", "北京", " 北京")
    )


async def test_a_large_schema_is_compiled_once(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = Grammars._compile

    def counting(self: Grammars, grammar: str) -> Any:
        compiled.append(grammar)
        return compile_(self, grammar)

    monkeypatch.setattr(Grammars, "_compile", counting)
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(500)}}
    first, second = [await sampling_of(server, guided_json=schema) for _ in range(2)]
    assert first.structured == second.structured
    assert len(compiled) == 1


async def test_a_grammar_that_is_not_compiled_in_time_is_refused(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured, "_PATIENCE_SECONDS", 0.05)
    go_on = threading.Event()
    busy = grammars._thread.submit(go_on.wait)
    try:
        with pytest.raises(InvalidRequest, match="could not be compiled within"):
            await structured.checked(Structured('start: "patience"'), grammars, param="guided_grammar")
    finally:
        go_on.set()
    assert busy.result()
    assert not grammars.knows('start: "patience"')


TOOLS = [
    ToolSpec("get_weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
    ToolSpec("now", {}),
    ToolSpec(
        "add",
        {
            "$id": "https://example.com/add",
            "type": "object",
            "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}}, "self": {"$ref": "#"}},
            "required": ["items"],
            "additionalProperties": False,
            "$defs": {"item": {"type": "integer", "format": "int32"}},
        },
    ),
]


@pytest.fixture(scope="module")
def tokenizer(model_dir: Any) -> Tokenizer:
    return Tokenizer.load(model_dir)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, vocab_size=1536, eos_token_ids=(2,))


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


WEATHER = call("get_weather", '{"city": "北京"}')


@pytest.mark.parametrize(
    ("text", "parallel", "fits"),
    [
        (WEATHER, False, True),
        (call("now", "{}"), False, True),
        (call("add", '{"items": [1, 2], "self": {"items": []}}'), False, True),
        (WEATHER + "\n" + call("now", "{}"), True, True),
        (WEATHER + "\n" + call("now", "{}"), False, False),
        (call("get_weather", "{}"), True, False),
        (call("now", '{"x": 1}'), True, False),
        (call("add", '{"items": ["1"]}'), True, False),
        (call("add", '{"items": [], "self": {}}'), True, False),
        (call("other", "{}"), True, False),
        ("It is sunny.", True, False),
    ],
)
async def test_an_answer_that_must_call_tools_is_calls_in_ernies_format(
    grammars: Grammars, tokenizer: Tokenizer, text: str, parallel: bool, fits: bool
) -> None:
    grammar = await structured.checked(tool_call_grammar(TOOLS, parallel=parallel), grammars, param="tools")
    matcher = grammars.matcher(grammar.grammar)
    assert (matcher.consume_tokens(tokenizer.encode(text)) and matcher.is_accepting()) == fits


async def test_tags_that_are_special_tokens_are_written_as_such(tmp_path: Any) -> None:
    directory = fixture.write(tmp_path)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"] += ["<tool_call>", "</tool_call>"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(directory)
    (opening,), (closing,) = tokenizer.encode("<tool_call>"), tokenizer.encode("</tool_call>")
    grammars = Grammars(tokenizer, vocab_size=1540, eos_token_ids=(2,))
    ids = {"<tool_call>": opening, "</tool_call>": closing}
    matcher = grammars.matcher(tool_call_grammar(TOOLS, parallel=False, special_ids=ids).grammar)
    assert matcher.consume_tokens(tokenizer.encode(WEATHER))
    assert matcher.is_stopped()
    assert not matcher.is_error()


async def test_a_tool_whose_schema_cannot_be_enforced_is_refused(grammars: Grammars) -> None:
    grammar = tool_call_grammar([ToolSpec("f", {"type": "array", "uniqueItems": True})], parallel=False)
    with pytest.raises(InvalidRequest, match="uniqueItems") as refused:
        await structured.checked(grammar, grammars, param="tools")
    assert refused.value.param == "tools"
    with pytest.raises(InvalidRequest, match="nested deeper") as refused:
        tool_call_grammar([ToolSpec("f", nested(200))], parallel=False)
    assert refused.value.param == "tools[0].function.parameters"
