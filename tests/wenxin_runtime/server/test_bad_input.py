"""Whatever a client sends, it gets an OpenAI error body that names the field, and nobody else notices."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.server.conftest import NAME, Running, Start
from wenxin_runtime.server.openai.schemas import UNSUPPORTED, ChatRequest, CompletionRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}

WRONG_IN_BOTH = [
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "10"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 300}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 0.5}, "seed"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"1536": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": []}, "logit_bias"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": 7}, "stop"),
    ({"stop_token_ids": [1536]}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": "yes"}, "stream"),
    ({"model": 7}, "model"),
    ({"cache_salt": 7}, "cache_salt"),
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
    ({"use_beam_search": True}, "use_beam_search"),
]

WRONG_IN_CHAT = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": "天 " * 300}]}, "messages"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": 999}, "max_completion_tokens"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "thing"}]}]}, "messages[0].content[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "x" * 65}}]}, "tools[0].function.name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters",
    ),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [TOOL]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"thinking_token_budget": 5}, "thinking_token_budget"),
    ({"reasoning_max_tokens": 5}, "reasoning_max_tokens"),
    ({"thinking_token_budget": -2}, "thinking_token_budget"),
    ({"functions": [{}]}, "functions"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
]

WRONG_IN_COMPLETIONS = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt[1]"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": [7, "a"]}, "prompt"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [1536]}, "prompt"),
    ({"prompt": [[5], [5, 1536]]}, "prompt[1]"),
    ({"prompt": [5] * 257}, "prompt"),
    ({"prompt": [5] * 256}, "prompt"),
    ({"prompt": ["x"] * 200}, "n"),
    ({"suffix": "end"}, "suffix"),
    ({"n": 3, "best_of": 2}, "best_of"),
    ({"best_of": 0}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"priority": 2**31}, "priority"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"echo": 1}, "echo"),
]


async def check_refused(response: httpx.Response, param: str | None, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert error["message"]
    return error


@pytest.mark.parametrize(("changes", "param"), WRONG_IN_BOTH + WRONG_IN_CHAT, ids=str)
async def test_a_wrong_chat_field_is_named(server: Running, changes: dict[str, Any], param: str) -> None:
    await check_refused(await server.post("chat/completions", **{"messages": HELLO, **changes}), param)


@pytest.mark.parametrize(("changes", "param"), WRONG_IN_BOTH + WRONG_IN_COMPLETIONS, ids=str)
async def test_a_wrong_completion_field_is_named(server: Running, changes: dict[str, Any], param: str) -> None:
    await check_refused(await server.post("completions", **{"prompt": "hi", **changes}), param)


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
async def test_no_field_that_would_change_the_answer_is_ignored(server: Running, name: str) -> None:
    error = await check_refused(await server.post("chat/completions", messages=HELLO, **{name: {"x": 1}}), name)
    assert error["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"prompt": "a",}', "not valid JSON"),
        (b'{"prompt": "\xff"}', "not valid JSON"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
        (b'{"prompt": "a", "temperature": NaN}', "not valid JSON"),
        (b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
        (b"[]", "the body: Expected `object`"),
        (b"null", "the body: Expected `object`"),
    ],
)
async def test_malformed_json_is_refused(server: Running, content: bytes, message: str) -> None:
    error = await check_refused(await server.client.post("/v1/completions", content=content), None)
    assert message in error["message"]


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_a_missing_required_field_is_named(server: Running, path: str) -> None:
    name = "messages" if path.startswith("chat") else "prompt"
    await check_refused(await server.post(path, model=NAME), name)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_an_unknown_model_is_not_found(server: Running, path: str) -> None:
    response = await server.post(path, model="gpt-9", messages=HELLO, prompt="hi")
    error = await check_refused(response, "model", 404)
    assert error["code"] == "model_not_found"
    assert NAME in error["message"]


async def test_an_unknown_route_and_a_wrong_method_are_refused_in_the_same_shape(server: Running) -> None:
    await check_refused(await server.client.get("/v1/nothing"), None, 404)
    await check_refused(await server.client.get("/v1/chat/completions"), None, 405)
    await check_refused(await server.client.post("/v1/models"), None, 405)


async def test_a_prompt_that_is_too_long_says_how_long_it_may_be(server: Running) -> None:
    error = await check_refused(await server.post("completions", prompt=[5] * 300), "prompt")
    assert error["code"] == "context_length_exceeded"
    assert "300" in error["message"]
    assert "256" in error["message"]


async def test_requests_that_ask_for_nothing_unusual_are_served(server: Running) -> None:
    harmless: dict[str, Any] = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "functions": None,
        "parallel_tool_calls": True,
        "an_unknown_field": {"x": [1]},
    }
    nothing = {
        name: None for name in ChatRequest.__struct_fields__ if name not in ("messages", "max_tokens", *harmless)
    }
    pending = server.posting("chat/completions", messages=HELLO, max_tokens=1, **harmless, **nothing)
    await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
    assert (await pending).status_code == 200


async def test_unknown_fields_are_logged_by_name_once_and_never_with_their_value(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for _ in range(2):
        pending = server.posting("completions", prompt="secret prompt", odd_field_name="secret value")
        await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
        await pending
    assert caplog.text.count("odd_field_name") == 1
    assert "secret" not in caplog.text


async def test_a_refused_request_costs_no_place_and_is_not_counted(server: Running) -> None:
    before = await server.metric("wenxin_requests_total", finish_reason="error")
    await server.post("completions", prompt="")
    assert await server.load() == {
        "waiting": 0,
        "running": 0,
        "slots": 32,
        "queue_size": 100,
        "kv_usage": 0.0,
        "draining": False,
    }
    assert await server.metric("wenxin_requests_total", finish_reason="error") == before


async def test_a_body_beyond_the_limit_is_refused_before_it_is_read(start: Start) -> None:
    async with start(max_request_bytes=1000) as server:
        error = await check_refused(await server.post("completions", prompt="x" * 2000), None, 413)
        assert "--max-request-bytes" in error["message"]
        pending = server.posting("completions", prompt="x" * 200)
        await server.engine.write(await server.engine.submit(), finish_reason="length")
        assert (await pending).status_code == 200


async def test_errors_become_the_exceptions_of_the_openai_package(server: Running) -> None:
    client = openai.AsyncOpenAI(base_url=f"{server.server.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model=NAME, prompt="hi", max_tokens=-1)
    assert refused.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert missing.value.code == "model_not_found"
    await client.close()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(sorted({*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__, *UNSUPPORTED})),
    value=ANY_JSON,
    path=st.sampled_from(["chat/completions", "completions"]),
)
async def test_no_value_of_any_field_breaks_the_server(server: Running, field: str, value: Any, path: str) -> None:
    body = {"messages": HELLO, "prompt": "hi", field: value, "stream": False, "stream_options": None, "model": "gone"}
    response = await server.client.post(f"/v1/{path}", content=json.dumps(body).encode())
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["message"]


async def test_what_the_chat_template_raises_is_said_to_the_client(start: Start, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system messages, please') }}{% endif %}"
        "{% if messages | length > 1 %}{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"
        "{% endif %}{{ messages[0].content }}",
        encoding="utf-8",
    )
    async with start(chat_template=str(template)) as server:
        raised = await server.post("chat/completions", messages=[{"role": "system", "content": "x"}])
        endless = await server.post("chat/completions", messages=HELLO * 2)
        assert (await server.load())["running"] == 0
    assert "no system messages, please" in (await check_refused(raised, "messages"))["message"]
    assert "loops more than" in (await check_refused(endless, "messages"))["message"]
