"""Thoughts over HTTP: told apart from answers, counted, bounded, and given back to the model."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.wenxin_runtime.server.conftest import NAME, Running, running_server
from tests.wenxin_runtime.tokenizer.conftest import write_settings
from wenxin_runtime import fixture
from wenxin_runtime.ipc import TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "你好"}]
ANSWER = "Let me think: 北京 😀.\n</think>\n\n<response>\nHello 👋🏽!\n</response>\n"


def make_tags_special(directory: Path) -> Path:
    """Declare the tags special, as some checkpoints do."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((directory / name).read_text(encoding="utf-8"))
        added = content["added_tokens"] if name == "tokenizer.json" else content["added_tokens_decoder"].values()
        for token in added:
            token["special"] = True
        if name == "tokenizer_config.json":
            write_settings(directory, content)
        else:
            (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory


@pytest.fixture(scope="module", params=["ordinary tags", "special tags"])
def thinking_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = fixture.write(tmp_path_factory.mktemp("thinking"), thinking=True)
    return make_tags_special(directory) if request.param == "special tags" else directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def thinker(thinking_dir: Path) -> AsyncIterator[Running]:
    async with running_server(thinking_dir, max_logprobs=5) as server:
        yield server


async def say(server: Running, text: str, reason: str = "stop", **fields: Any) -> dict[str, Any]:
    """Let the model say `text`, token by token; return the whole answer."""
    pending = server.posting("chat/completions", **{"messages": HELLO, **fields})
    submit = await server.engine.submit()
    await server.engine.say(submit, server.tokens(text), reason)
    response = await pending
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def stream(server: Running, text: str, reason: str = "stop", **fields: Any) -> list[dict[str, Any]]:
    """Let the model say `text`, token by token; return the deltas of the only choice."""
    pending = server.streaming("chat/completions", **{"messages": HELLO, **fields})
    submit = await server.engine.submit()
    await server.engine.say(submit, server.tokens(text), reason)
    events = await pending
    assert events.pop() == "[DONE]"
    return [event["choices"][0] for event in events if isinstance(event, dict)]


async def test_a_thought_is_told_apart_from_the_answer_and_counted(thinker: Running) -> None:
    body = await say(thinker, ANSWER)
    message = body["choices"][0]["message"]
    assert message["content"] == "Hello 👋🏽!"
    assert message["reasoning_content"] == message["reasoning"] == "Let me think: 北京 😀."
    assert body["choices"][0]["finish_reason"] == "stop"
    thought = len(thinker.tokens(ANSWER[: ANSWER.index("</think>")])) + 1
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": thought}
    assert body["usage"]["completion_tokens"] == len(thinker.tokens(ANSWER))


async def test_a_streamed_thought_and_answer_add_up_and_never_show_a_tag_or_half_a_character(thinker: Running) -> None:
    choices = await stream(thinker, ANSWER)
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": ""}
    thoughts = [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta]
    contents = [delta["content"] for delta in deltas[1:] if "content" in delta]
    assert thoughts
    assert "".join(thoughts) == "Let me think: 北京 😀."
    assert "".join(contents) == "Hello 👋🏽!"
    assert not any("\ufffd" in text or "<" in text for text in thoughts + contents)
    assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in deltas)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]


async def test_a_thought_that_is_cut_off_leaves_no_content(thinker: Running) -> None:
    choice = (await say(thinker, "Let me see", "length"))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "length")
    assert choice["message"]["reasoning_content"] == "Let me see"
    last = (await stream(thinker, "Let me see", "length"))[-1]
    assert last["finish_reason"] == "length"
    assert "content" not in last["delta"]


async def test_a_thought_may_be_switched_off_by_the_templates_own_variable(thinker: Running) -> None:
    kwargs = {"enable_thinking": False}
    pending = thinker.posting("chat/completions", messages=HELLO, chat_template_kwargs=kwargs)
    submit = await thinker.engine.submit()
    assert submit.prompt_ids[-4:] == tuple(thinker.tokens("<think>\n\n</think>\n\n"))[-4:]
    assert submit.sampling.think_end_ids == ()
    await thinker.engine.say(submit, thinker.tokens("<response>\nHi </think>\n</response>"), "stop")
    body = (await pending).json()
    assert body["choices"][0]["message"]["content"] == "Hi </think>"
    assert body["choices"][0]["message"]["reasoning_content"] is None
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_left_out_on_demand(thinker: Running, streamed: bool) -> None:
    if streamed:
        deltas = [choice["delta"] for choice in await stream(thinker, ANSWER, include_reasoning=False)]
        assert "".join(delta.get("content", "") for delta in deltas) == "Hello 👋🏽!"
    else:
        deltas = [(await say(thinker, ANSWER, include_reasoning=False))["choices"][0]["message"]]
        assert deltas[0]["content"] == "Hello 👋🏽!"
    assert not any("reasoning" in key for delta in deltas for key in delta)


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({}, None),
        ({"thinking_token_budget": 7}, 7),
        ({"thinking_token_budget": 0}, 0),
        ({"reasoning_max_tokens": 7}, 7),
        ({"thinking_token_budget": 7, "reasoning_max_tokens": 7}, 7),
        ({"thinking_token_budget": -1}, None),
    ],
)
async def test_the_thinking_budget_and_the_end_of_a_thought_reach_the_engine(
    thinker: Running, fields: dict[str, Any], budget: int | None
) -> None:
    pending = thinker.posting("chat/completions", messages=HELLO, **fields)
    submit = await thinker.engine.submit()
    assert list(submit.sampling.think_end_ids) == thinker.tokens("</think>")
    assert submit.sampling.thinking_budget == budget
    await thinker.engine.write(submit, finish_reason="length")
    await pending


async def test_two_different_budgets_are_refused(thinker: Running) -> None:
    fields = {"thinking_token_budget": 7, "reasoning_max_tokens": 8}
    response = await thinker.post("chat/completions", messages=HELLO, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "reasoning_max_tokens"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_earlier_thoughts_reach_the_template(thinker: Running, name: str) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Hm.", name: "a thought"}]
    pending = thinker.posting("chat/completions", messages=messages)
    submit = await thinker.engine.submit()
    prompt = thinker.tokenizer.decode(submit.prompt_ids, skip_special_tokens=False)
    assert "<think>\na thought\n</think>\n\n<response>\nHm.\n</response>" in prompt
    await thinker.engine.write(submit, finish_reason="length")
    await pending


async def test_a_continued_answer_is_unwrapped_too(thinker: Running) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "The answer"}]
    body = await say(thinker, " is 7\n</response>\n", messages=messages, continue_final_message=True)
    assert body["choices"][0]["message"]["content"] == " is 7"


@pytest.mark.parametrize("streamed", [False, True])
async def test_logprobs_are_those_of_the_answers_tokens(thinker: Running, streamed: bool) -> None:
    ask = thinker.streaming if streamed else thinker.posting
    pending = ask("chat/completions", messages=HELLO, logprobs=True)
    submit = await thinker.engine.submit()
    ids = thinker.tokens("北京\n</think>\n\n<response>\n")
    answer = thinker.tokens("是 👋")
    for token_id in [*ids, *answer, *thinker.tokens("\n</response>")]:
        await thinker.engine.write(submit, token_id, logprobs=(TokenLogprobs(-0.5, 1),))
    await thinker.engine.write(submit, 2, finish_reason="stop", stop_token_id=2, logprobs=(TokenLogprobs(-0.5, 1),))
    found = await pending
    choices = [event["choices"][0] for event in found if event != "[DONE]"] if streamed else found.json()["choices"]
    entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert bytes(value for entry in entries for value in entry["bytes"]).decode() == "是 👋"
    assert len(entries) == len(answer)
    if streamed:
        for choice in choices:
            assert not choice["logprobs"] or choice["delta"].get("content"), "logprobs come with their text"


async def test_stop_strings_count_in_all_that_the_model_writes(thinker: Running) -> None:
    pending = thinker.posting("chat/completions", messages=HELLO, stop="STOP")
    submit = await thinker.engine.submit()
    await thinker.engine.write(submit, *thinker.tokens("thought</think>an answer ST"))
    await thinker.engine.write(submit, *thinker.tokens("OP and more"))
    assert await thinker.engine.aborted() == (submit.request_id,)
    choice = (await pending).json()["choices"][0]
    assert choice["message"]["reasoning_content"] == "thought"
    assert (choice["message"]["content"], choice["stop_reason"]) == ("an answer ", "STOP")


async def test_a_structured_answer_begins_behind_the_thought(thinker: Running) -> None:
    pending = thinker.posting("chat/completions", messages=HELLO, response_format={"type": "json_object"})
    submit = await thinker.engine.submit()
    assert submit.sampling.structured is not None
    assert list(submit.sampling.think_end_ids) == thinker.tokens("</think>")
    await thinker.engine.say(submit, thinker.tokens('hm</think>{"a": 1}'), "stop")
    assert (await pending).json()["choices"][0]["message"]["content"] == '{"a": 1}'


async def test_the_openai_package_reads_a_streamed_thought(thinker: Running) -> None:
    async with AsyncOpenAI(base_url=f"{thinker.server.url}/v1", api_key="none", max_retries=0) as client:
        pending = client.chat.completions.create(model=NAME, messages=HELLO, stream=True)
        task = asyncio.ensure_future(pending)
        submit = await thinker.engine.submit()
        await thinker.engine.say(submit, thinker.tokens(ANSWER), "stop")
        deltas = [chunk.choices[0].delta async for chunk in await task]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thoughts) == "Let me think: 北京 😀."
    assert "".join(delta.content or "" for delta in deltas) == "Hello 👋🏽!"


@pytest.mark.parametrize(("flag", "thinks"), [("none", False), ("ernie45", True), ("auto", True)])
async def test_the_flag_decides_whether_thoughts_are_told_apart(thinking_dir: Path, flag: str, thinks: bool) -> None:
    async with running_server(thinking_dir, reasoning_parser=flag) as server:
        message = (await say(server, "a\n</think>\nb"))["choices"][0]["message"]
    if thinks:
        assert (message["content"], message["reasoning_content"]) == ("b", "a")
    else:
        assert message["content"].replace("</think>", "") == "a\n\nb"
        assert "reasoning_content" not in message


async def test_a_model_that_opens_the_thought_itself_is_understood(model_dir: Path) -> None:
    async with running_server(model_dir, reasoning_parser="ernie45") as server:
        message = (await say(server, "<think>\na</think>b"))["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("b", "a")
        message = (await say(server, "no thought"))["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("no thought", None)
