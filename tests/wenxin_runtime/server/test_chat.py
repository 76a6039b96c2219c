"""Chat completions, whole and streamed."""

from typing import Any

from tests.wenxin_runtime.server.conftest import NAME, Start

HELLO = [{"role": "user", "content": "你好"}]


async def test_a_chat_answer_has_openais_shape(start: Start) -> None:
    async with start() as server:
        pending = server.posting("chat/completions", messages=HELLO, max_tokens=8)
        submit = await server.engine.submit()
        assert list(submit.prompt_ids) == server.tokenizer.encode_chat(HELLO)
        tokens = server.tokens("北京好")
        await server.engine.say(submit, tokens)
        response = await pending
        body = response.json()
        assert response.status_code == 200
        assert body.pop("id").startswith("chatcmpl-")
        assert body.pop("created") > 1_700_000_000
        prompt_tokens = len(submit.prompt_ids)
        assert body == {
            "object": "chat.completion",
            "model": NAME,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "北京好", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "length",
                    "stop_reason": None,
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": len(tokens),
                "total_tokens": prompt_tokens + len(tokens),
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }


def contents(events: list[Any], index: int = 0) -> str:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices if choice["index"] == index)


async def test_a_stream_begins_with_the_role_and_ends_with_reason_and_done(start: Start) -> None:
    async with start() as server:
        pending = server.streaming("chat/completions", messages=HELLO)
        submit = await server.engine.submit()
        await server.engine.say(submit, server.tokens("北京 is fine"), "stop")
        events = await pending
    assert events[-1] == "[DONE]"
    chunks = [event for event in events if event != "[DONE]"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert contents(chunks) == "北京 is fine"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert "usage" not in chunks[0]
