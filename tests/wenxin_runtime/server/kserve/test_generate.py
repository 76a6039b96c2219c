"""Triton's generate extension: plain JSON in, plain JSON or server-sent events out."""

import asyncio

import pytest

from tests.wenxin_runtime.server.conftest import NAME, Running
from tests.wenxin_runtime.server.kserve.conftest import answered, events

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_generate_answers_with_plain_values(server: Running) -> None:
    body = {"id": "3", "text_input": "hi", "parameters": {"max_tokens": 4, "temperature": 0}, "stop": ["x"]}
    submit, response = await answered(server, server.client.post(f"/v2/models/{NAME}/generate", json=body))
    assert (submit.sampling.max_tokens, submit.sampling.temperature) == (4, 0)
    assert response.json() == {
        "model_name": NAME,
        "model_version": "1",
        "id": "3",
        "text_output": "hello",
        "token_ids": server.tokens("hello"),
        "finish_reason": "length",
        "num_input_tokens": len(server.tokens("hi")),
        "num_output_tokens": len(server.tokens("hello")),
    }


async def test_generate_stream_sends_each_piece_as_an_event(server: Running) -> None:
    body = {"text_input": "hi", "parameters": {"max_tokens": 40}}
    first, *rest = server.tokens("hello world")

    async def answer() -> None:
        submit = await server.engine.submit()
        await server.engine.write(submit, first)
        await begun.wait()
        await server.engine.say(submit, rest, "stop")

    begun = asyncio.Event()
    writing = asyncio.create_task(answer())
    async with server.client.stream("POST", f"/v2/models/{NAME}/generate_stream", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        opening = await anext(lines)
        begun.set()
        seen = events("\n".join([opening, *[line async for line in lines]]))
    await writing
    assert "".join(each["text_output"] for each in seen) == "hello world"
    assert [token for each in seen for token in each["token_ids"]] == [first, *rest]
    assert [each["finish_reason"] for each in seen if each["finish_reason"]] == [seen[-1]["finish_reason"]] == ["stop"]
    assert len(seen) > 1


async def test_generate_stream_without_stream_is_one_event(server: Running) -> None:
    body = {"text_input": "hi", "stream": False}
    _, response = await answered(server, server.client.post(f"/v2/models/{NAME}/generate_stream", json=body))
    assert [each["text_output"] for each in events(response.text)] == ["hello"]


async def test_a_failure_within_a_stream_is_its_last_event(server: Running) -> None:
    body = {"text_input": "hi", "max_tokens": 40}
    pending = asyncio.ensure_future(server.client.post(f"/v2/models/{NAME}/generate_stream", json=body))
    submit = await server.engine.submit()
    await server.engine.write(submit, *server.tokens("hello"))
    await server.engine.write(submit, finish_reason="error", error="out of luck")
    response = await pending
    *_, last = events(response.text)
    assert last == {"error": "out of luck"}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("[]", "JSON object"),
        ('{"text_input": 3}', "text_input"),
        ('{"text_input": "a", "parameters": 3}', "JSON object"),
        ('{"text_input": "a", "stream": true}', "stream"),
        ("{}", "text_input and input_ids"),
    ],
)
async def test_a_wrong_body_of_generate_is_refused(server: Running, body: str, word: str) -> None:
    response = await server.client.post(f"/v2/models/{NAME}/generate", content=body)
    assert response.status_code == 400
    assert word in response.json()["error"]


async def test_a_client_that_goes_away_frees_its_sequence(server: Running) -> None:
    path = f"/v2/models/{NAME}/generate_stream"

    async def begin() -> str:
        submit = await server.engine.submit()
        await server.engine.write(submit, *server.tokens("a"))
        return submit.request_id

    beginning = asyncio.create_task(begin())
    async with server.client.stream("POST", path, json={"text_input": "hi", "max_tokens": 40}) as response:
        assert await anext(response.aiter_lines())
    request_id = await beginning
    assert await server.engine.aborted() == (request_id,)
