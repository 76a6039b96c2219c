"""Tool calls over HTTP: seen by the model, found in its answer, forced by a grammar, streamed as OpenAI does."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.wenxin_runtime.server.conftest import NAME, Running, running_server
from tests.wenxin_runtime.server.test_thinking import make_tags_special, say, stream
from wenxin_runtime import fixture
from wenxin_runtime.ipc import TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "天气?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京 😀"}}\n</tool_call>\n'
OTHER_CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n'


@pytest.fixture(scope="module", params=["ordinary tags", "special tags"])
def caller_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = fixture.write(tmp_path_factory.mktemp("caller"), thinking=True)
    return make_tags_special(directory) if request.param == "special tags" else directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(caller_dir: Path) -> AsyncIterator[Running]:
    async with running_server(caller_dir) as server:
        await server.ready(max_model_len=2048)
        yield server


def joined(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put streamed calls together as a client does; the first delta of each has its id and name."""
    calls: list[dict[str, Any]] = []
    for part in itertools.chain.from_iterable(choice["delta"].get("tool_calls", []) for choice in choices):
        if part["index"] == len(calls):
            assert part["type"] == "function"
            calls.append({"id": part["id"], **part["function"]})
        else:
            assert part.keys() == {"index", "function"}
            assert part["index"] == len(calls) - 1
            calls[-1]["arguments"] += part["function"]["arguments"]
    return calls


async def test_the_tools_reach_the_template_as_they_were_sent(caller: Running) -> None:
    pending = caller.posting("chat/completions", messages=HELLO, tools=[WEATHER, TIME])
    submit = await caller.engine.submit()
    prompt = caller.tokenizer.decode(submit.prompt_ids, skip_special_tokens=False)
    shown = prompt[prompt.index("<tool_list>\n") + 12 : prompt.index("\n</tool_list>")]
    assert json.loads(shown) == [WEATHER, TIME]
    assert submit.sampling.structured is None
    await caller.engine.write(submit, finish_reason="length")
    await pending


@pytest.mark.parametrize("text", ["hm\n</think>\n\nLet me see.\n" + CALL + OTHER_CALL, "hm</think>" + CALL])
async def test_calls_are_found_and_end_the_answer_as_tool_calls(caller: Running, text: str) -> None:
    choice = (await say(caller, text, messages=HELLO, tools=[WEATHER, TIME]))["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == ("Let me see." if "see" in text else None)
    assert message["reasoning_content"] == "hm"
    calls = message["tool_calls"]
    assert [call["type"] for call in calls] == ["function"] * len(calls)
    assert len({call["id"] for call in calls}) == len(calls)
    assert calls[0]["function"] == {"name": "get_weather", "arguments": '{"city": "北京 😀"}'}
    assert [call["function"]["name"] for call in calls] == ["get_weather", "get_time"][: len(calls)]
    assert len(calls) == text.count("<tool_call>")


async def test_streamed_calls_add_up_and_come_as_they_are_written(caller: Running) -> None:
    choices = await stream(caller, "hm</think>\n\nok\n" + CALL + OTHER_CALL, messages=HELLO, tools=[WEATHER, TIME])
    calls = joined(choices)
    assert [call["name"] for call in calls] == ["get_weather", "get_time"]
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "北京 😀"}, {}]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "ok"
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert not any("\ufffd" in json.dumps(choice, ensure_ascii=False) for choice in choices)


async def test_arguments_are_shown_before_the_call_is_complete(caller: Running) -> None:
    events = caller.events("chat/completions", messages=HELLO, tools=[WEATHER])
    opening = asyncio.ensure_future(anext(events))
    submit = await caller.engine.submit()
    await caller.engine.write(submit, *caller.tokens("</think>"))
    await opening
    await caller.engine.write(submit, *caller.tokens('<tool_call>\n{"name": "get_weather", "arguments": {"ci'))
    (first,) = (await anext(events))["choices"][0]["delta"]["tool_calls"]
    assert first["function"] == {"name": "get_weather", "arguments": '{"ci'}
    await caller.engine.write(submit, *caller.tokens("ty"))
    (second,) = (await anext(events))["choices"][0]["delta"]["tool_calls"]
    assert second == {"index": 0, "function": {"arguments": "ty"}}
    await caller.engine.write(submit, finish_reason="length")
    assert [event["choices"][0]["finish_reason"] async for event in events if event != "[DONE]"] == ["length"]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": Beijing}}\n</tool_call>',
        "<tool_call>\nget_weather(Beijing)\n</tool_call>",
        "The tag <tool_call> begins a call",
    ],
)
async def test_a_malformed_call_is_content(caller: Running, text: str) -> None:
    choice = (await say(caller, "</think>" + text, messages=HELLO, tools=[WEATHER]))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert "tool_calls" not in choice["message"]


async def test_a_call_that_is_cut_off_ends_with_length(caller: Running) -> None:
    text = '</think><tool_call>\n{"name": "get_weather", "arguments": {"city": "Bei'
    choice = (await say(caller, text, "length", messages=HELLO, tools=[WEATHER]))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == text.removeprefix("</think>")
    choices = await stream(caller, text, "length", messages=HELLO, tools=[WEATHER])
    assert choices[-1]["finish_reason"] == "length"
    assert joined(choices)[0]["arguments"] == '{"city": "Bei'


@pytest.mark.parametrize("streamed", [False, True])
async def test_without_parallel_calls_the_first_one_ends_the_answer(caller: Running, streamed: bool) -> None:
    ask = caller.streaming if streamed else caller.posting
    pending = ask("chat/completions", messages=HELLO, tools=[WEATHER, TIME], parallel_tool_calls=False)
    submit = await caller.engine.submit()
    await caller.engine.write(submit, *caller.tokens("</think>" + CALL + OTHER_CALL))
    assert await caller.engine.aborted() == (submit.request_id,)
    found = await pending
    if streamed:
        choices = [event["choices"][0] for event in found if event != "[DONE]"]
        assert ([call["name"] for call in joined(choices)], choices[-1]["finish_reason"]) == (
            ["get_weather"],
            "tool_calls",
        )
    else:
        (choice,) = found.json()["choices"]
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["get_weather"]
        assert choice["finish_reason"] == "tool_calls"


async def test_tool_choice_none_hides_the_tools_and_leaves_calls_alone(caller: Running) -> None:
    pending = caller.posting("chat/completions", messages=HELLO, tools=[WEATHER], tool_choice="none")
    submit = await caller.engine.submit()
    assert "get_weather" not in caller.tokenizer.decode(submit.prompt_ids)
    await caller.engine.say(submit, caller.tokens("</think>a {} b"), "stop")
    assert (await pending).json()["choices"][0]["message"]["content"] == "a {} b"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
    ],
)
async def test_a_forced_call_is_held_to_by_a_grammar(caller: Running, choice: Any, names: set[str]) -> None:
    pending = caller.posting("chat/completions", messages=HELLO, tools=[WEATHER, TIME], tool_choice=choice)
    submit = await caller.engine.submit()
    assert submit.sampling.structured is not None
    grammar = submit.sampling.structured.grammar
    assert {name for name in ("get_weather", "get_time") if name in grammar} == names
    await caller.engine.say(submit, caller.tokens("hm</think>" + OTHER_CALL), "stop")
    found = (await pending).json()["choices"][0]
    assert (found["finish_reason"], found["message"]["tool_calls"][0]["function"]["name"]) == ("tool_calls", "get_time")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        (
            {
                "tool_choice": "required",
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "allOf": 5}}}
                ],
            },
            "tools[0].function.parameters",
        ),
    ],
)
async def test_a_forced_call_that_cannot_be_described_is_refused(
    caller: Running, fields: dict[str, Any], param: str
) -> None:
    response = await caller.post("chat/completions", **{"messages": HELLO, "tools": [WEATHER], **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] in (param, "tools")


async def test_a_call_and_its_result_go_back_to_the_model(caller: Running) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "reasoning_content": "look it up", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "晴 </think><tool_call>"},
    ]
    pending = caller.posting("chat/completions", messages=messages, tools=[WEATHER])
    submit = await caller.engine.submit()
    prompt = caller.tokenizer.decode(submit.prompt_ids, skip_special_tokens=False)
    assert "<think>\nlook it up\n</think>" in prompt
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>' in prompt
    assert "<tool_output>\n晴 </think><tool_call>\n</tool_output>" in prompt
    tag = caller.tokenizer.id_of("<tool_call>")
    assert submit.prompt_ids.count(tag or -1) == 1, "a tool's result cannot forge a tag"
    await caller.engine.say(submit, caller.tokens("</think>晴"), "stop")
    assert (await pending).json()["choices"][0]["message"]["content"] == "晴"


async def test_logprobs_leave_the_calls_out(caller: Running) -> None:
    pending = caller.posting("chat/completions", messages=HELLO, tools=[WEATHER], logprobs=True)
    submit = await caller.engine.submit()
    for token_id in caller.tokens("</think>\n\nok 😀\n" + CALL):
        await caller.engine.write(submit, token_id, logprobs=(TokenLogprobs(-0.5, 1),))
    await caller.engine.write(submit, finish_reason="stop")
    (choice,) = (await pending).json()["choices"]
    entries = choice["logprobs"]["content"]
    assert bytes(value for entry in entries for value in entry["bytes"]).decode() == choice["message"]["content"]


async def test_the_openai_package_accumulates_a_streamed_call(caller: Running) -> None:
    async with AsyncOpenAI(base_url=f"{caller.server.url}/v1", api_key="none", max_retries=0) as client:
        manager = client.chat.completions.stream(model=NAME, messages=HELLO, tools=[WEATHER])

        async def consume() -> Any:
            async with manager as events:
                async for _ in events:
                    pass
                return await events.get_final_completion()

        task = asyncio.create_task(consume())
        submit = await caller.engine.submit()
        await caller.engine.say(submit, caller.tokens("hm</think>\nok\n" + CALL), "stop")
        (choice,) = (await task).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "ok"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "北京 😀"})


async def test_a_server_that_looks_for_no_calls_says_so(caller_dir: Path) -> None:
    async with running_server(caller_dir, tool_call_parser="none") as server:
        response = await server.post("chat/completions", messages=HELLO, tools=[WEATHER])
    assert response.status_code == 400
    assert "--tool-call-parser" in response.json()["error"]["message"]


async def test_every_way_to_cut_an_answer_into_steps_gives_the_same_answer(caller: Running) -> None:
    text = "北😀\n</think>\n\n好👍🏽\n" + CALL
    tokens = caller.tokens(text)
    for size in (1, 2, 3, 5, 7, len(tokens)):
        pending = caller.streaming("chat/completions", messages=HELLO, tools=[WEATHER], stop="STOP")
        submit = await caller.engine.submit()
        for at in range(0, len(tokens), size):
            await caller.engine.write(submit, *tokens[at : at + size])
        await caller.engine.write(submit, finish_reason="stop")
        choices = [event["choices"][0] for event in await pending if event != "[DONE]"]
        assert "\ufffd" not in json.dumps(choices, ensure_ascii=False)
        deltas = [choice["delta"] for choice in choices]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "北😀"
        assert "".join(delta.get("content", "") for delta in deltas) == "好👍🏽"
        assert json.loads(joined(choices)[0]["arguments"]) == {"city": "北京 😀"}


@pytest.mark.parametrize("ending", ["length", "stop"])
async def test_wherever_an_answer_is_cut_off_it_shows_no_broken_character(caller: Running, ending: str) -> None:
    bytes_of = {value: caller.tokenizer.id_of(f"<0x{value:02X}>") for value in range(256)}
    call = "</think>" + CALL[: CALL.index("北")]
    for before, character in itertools.product(["hm", "</think>ok", call], ["北", "😀"]):
        for size in range(1, len(character.encode()) + 1):
            pending = caller.streaming("chat/completions", messages=HELLO, tools=[WEATHER], logprobs=True, stop="北X")
            submit = await caller.engine.submit()
            token_ids = [*caller.tokens(before), *(bytes_of[value] or 0 for value in character.encode()[:size])]
            logprobs = (TokenLogprobs(-0.5, 1),) * len(token_ids)
            await caller.engine.write(submit, *token_ids, logprobs=logprobs, finish_reason=ending)
            deltas = [event["choices"][0]["delta"] for event in await pending if event != "[DONE]"]
            spelled = json.dumps(deltas, ensure_ascii=False)
            assert "\ufffd" not in spelled
            assert (character in spelled) == (size == len(character.encode()))
