"""Structured output through HTTP, the `openai` package and the real engine, on a checkpoint that knows nothing."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from tests.wenxin_runtime.server.processes import until
from tests.wenxin_runtime.server.real_engine import MODEL, openai_client
from wenxin_runtime.tokenizer import Tokenizer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("structured_output")]

HELLO: Any = [{"role": "user", "content": "北京的天气怎么样?"}]
HOT: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 400, "temperature": 1.0, "top_p": 1.0}
COMPACT = {"disable_any_whitespace": True}


class Weather(BaseModel):
    """What a team would ask for."""

    city: Literal["北京", "上海", "广州"]
    degrees: int = Field(ge=-50, le=50)
    words: list[Literal["sunny", "雨"]] = Field(max_length=2)
    wind: bool | None


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.load(model_dir)


@pytest.fixture(scope="module")
def terse(tokenizer: Tokenizer) -> dict[str, Any]:
    """Ask for little white space: between the tokens of JSON a model that knows nothing writes all it may."""
    blank = [token for token in range(1536) if tokenizer.pieces[token].isspace()]
    return {"logit_bias": {str(token): -100 for token in blank}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(model_dir: Path) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(model_dir) as client:
        yield client


async def test_json_mode_answers_with_an_object(client: AsyncOpenAI, tokenizer: Tokenizer) -> None:
    (brace,) = tokenizer.encode("}")
    answer = await client.chat.completions.create(
        **HOT, response_format={"type": "json_object"}, logit_bias={str(brace): 8}, seed=3
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


async def test_a_pydantic_model_is_parsed_from_every_choice(client: AsyncOpenAI, terse: dict[str, Any]) -> None:
    answer = await client.chat.completions.parse(**HOT, **terse, response_format=Weather, n=3, seed=1)
    parsed = [choice.message.parsed for choice in answer.choices]
    assert all(isinstance(each, Weather) for each in parsed)
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


async def test_a_stream_is_the_whole_answer_in_pieces(client: AsyncOpenAI, terse: dict[str, Any]) -> None:
    asked: dict[str, Any] = {
        **HOT,
        **terse,
        "seed": 5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "weather", "schema": Weather.model_json_schema(), "strict": True},
        },
    }
    whole = await client.chat.completions.create(**asked)
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert "�" not in text
    Weather.model_validate_json(text)


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, "[0-9]{3}-[a-z]{2}"),
        ({"guided_choice": ["是", "否"]}, "是|否"),
        ({"guided_grammar": 'start: "龘" ("a" | "😀"){2}'}, "龘(a|😀){2}"),
        ({"structured_outputs": {"json": {"enum": ["北京", 7]}}}, '"北京"|7'),
    ],
    ids=str,
)
async def test_vllms_fields_hold_in_chat_and_completions(
    client: AsyncOpenAI, asked: dict[str, Any], pattern: str
) -> None:
    chat = await client.chat.completions.create(**HOT, extra_body=asked)
    completion = await client.completions.create(
        model=MODEL, prompt=["the", "北京"], max_tokens=50, logprobs=2, extra_body=asked
    )
    for text in (chat.choices[0].message.content, *(choice.text for choice in completion.choices)):
        assert text is not None
        assert re.fullmatch(pattern, text)
    for choice in completion.choices:
        assert choice.finish_reason == "stop"
        assert choice.logprobs is not None
        assert "".join(choice.logprobs.tokens or []).encode("utf-8", "replace")


async def test_neighbours_keep_their_words_and_seeds_repeat(client: AsyncOpenAI) -> None:
    async def free() -> Any:
        return await client.completions.create(model=MODEL, prompt="the", max_tokens=24, temperature=0.8, seed=4)

    async def bound() -> Any:
        asked = {"structured_outputs": {"json": Weather.model_json_schema(), **COMPACT}}
        return await client.chat.completions.create(**HOT, seed=4, extra_body=asked)

    alone = await free()
    answers = await asyncio.gather(*[make() for _ in range(3) for make in (free, bound)])
    assert {answer.choices[0].text for answer in answers[::2]} == {alone.choices[0].text}
    texts = {answer.choices[0].message.content for answer in answers[1::2]}
    assert len(texts) == 1
    jsonschema.validate(json.loads(texts.pop()), Weather.model_json_schema())


async def test_a_stop_string_ends_a_structured_answer_too(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**HOT, stop=["-"], extra_body={"guided_regex": "[0-9]{3}-[a-z]{2}"})
    assert answer.choices[0].finish_reason == "stop"
    assert re.fullmatch("[0-9]{3}", answer.choices[0].message.content or "")


async def test_an_answer_that_is_cut_ends_with_length(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        **{**HOT, "max_tokens": 3}, extra_body={"guided_regex": "[0-9]{40,}", "allowed_token_ids": None}
    )
    assert answer.choices[0].finish_reason == "length"


async def test_word_lists_hold(client: AsyncOpenAI, tokenizer: Tokenizer) -> None:
    greedy: dict[str, Any] = {"model": MODEL, "prompt": "the", "max_tokens": 8, "temperature": 0}
    returned = {"return_token_ids": True}

    async def ids(**asked: Any) -> list[int]:
        answer = await client.completions.create(**greedy, extra_body={**returned, **asked})
        return answer.choices[0].token_ids  # type: ignore[attr-defined, no-any-return]

    free = await ids()
    word = tokenizer.decode(free[:1])
    assert tokenizer.encode(word) == free[:1]
    assert free[0] not in await ids(bad_words=[word])
    assert set(await ids(allowed_token_ids=[300, 301])) <= {300, 301}


async def test_a_grammar_that_turns_out_to_be_a_dead_end_fails_its_request_with_the_reason(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="the grammar"):
        await client.chat.completions.create(**HOT, extra_body={"guided_grammar": 'start: "a" b\nb: b "c"'})


async def test_a_client_that_leaves_a_structured_answer_frees_its_place(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**HOT, stream=True, extra_body={"guided_regex": "[0-9]{300}"})
    await anext(aiter(stream))
    await stream.close()
    async with httpx.AsyncClient(base_url=str(client.base_url.join("/"))) as http:

        async def is_idle() -> bool:
            found = (await http.get("/load")).json()
            return (found["waiting"], found["running"], found["kv_usage"]) == (0, 0, 0)

        await until(is_idle)
