"""Thoughts and forced tool calls with the real engine: even random weights call tools rightly, and stop thinking."""

import json
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.wenxin_runtime.server.real_engine import MODEL, openai_client
from wenxin_runtime import fixture

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("forced_calls")]

HELLO: Any = [{"role": "user", "content": "北京的天气怎么样?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["北京", "上海"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "get_time"}},
]
ONE: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(fixture.write(tmp_path_factory.mktemp("thinking"), thinking=True)) as client:
        yield client


async def ask(client: AsyncOpenAI, *, budget: int = 4, **fields: Any) -> Any:
    fields = {"model": MODEL, "messages": HELLO, "max_tokens": 300, "temperature": 1.0, **fields}
    return await client.chat.completions.create(**fields, extra_body={"thinking_token_budget": budget})


@pytest.mark.parametrize("budget", [0, 1, 9])
async def test_a_thought_ends_with_its_budget(client: AsyncOpenAI, budget: int) -> None:
    completion = await ask(client, budget=budget, max_tokens=40, seed=budget)
    assert completion.usage.completion_tokens_details.reasoning_tokens <= budget + 1
    assert completion.choices[0].message.content is not None


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("choice", [ONE, "required"])
async def test_a_forced_call_is_valid_whole_and_streamed(client: AsyncOpenAI, choice: Any, seed: int) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "seed": seed}
    (whole,) = (await ask(client, **fields)).choices
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert whole.message.content is None
    assert call.function.name == "get_weather" if choice is ONE else call.function.name in ("get_weather", "get_time")
    if call.function.name == "get_weather":
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    stream = client.chat.completions.stream(
        model=MODEL, messages=HELLO, max_tokens=300, extra_body={"thinking_token_budget": 4}, **fields
    )
    async with stream as events:
        async for _ in events:
            pass
        (streamed,) = (await events.get_final_completion()).choices
    assert streamed.finish_reason == "tool_calls"
    assert json.loads(streamed.message.tool_calls[0].function.arguments) is not None


async def test_a_forced_call_needs_no_thought(client: AsyncOpenAI) -> None:
    fields = {"tools": TOOLS, "tool_choice": ONE, "model": MODEL, "messages": HELLO, "max_tokens": 300}
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    completion = await client.chat.completions.create(**fields, extra_body=body)
    assert completion.usage.completion_tokens_details.reasoning_tokens == 0
    (call,) = completion.choices[0].message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


async def test_the_prompts_logprobs_are_those_that_echo_shows(client: AsyncOpenAI) -> None:
    fields = {"model": MODEL, "prompt": [20, 300, 301, 302], "max_tokens": 1, "temperature": 0, "logprobs": 1}
    completion = await client.completions.create(**fields, echo=True, extra_body={"prompt_logprobs": 1})
    choice = completion.choices[0]
    found = choice.model_extra["prompt_logprobs"]
    assert found[0] is None
    scores = [entry[str(token)]["logprob"] for entry, token in zip(found[1:], [300, 301, 302], strict=True)]
    assert scores == choice.logprobs.token_logprobs[1:4]
