"""Chat completions, whole and streamed."""

import asyncio
from typing import Any

import pytest

from tests.wenxin_runtime.fake_engine import choices_of
from tests.wenxin_runtime.server.conftest import NAME, Running, Start
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.ipc import Delta, Submit, TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "你好"}]


def chunks_of(events: list[Any]) -> list[dict[str, Any]]:
    return [event for event in events if event != "[DONE]"]


def contents(events: list[Any], index: int = 0) -> str:
    choices = [choice for event in chunks_of(events) for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices if choice["index"] == index)


def reasons(events: list[Any], index: int = 0) -> list[str]:
    choices = [choice for event in chunks_of(events) for choice in event["choices"]]
    return [choice["finish_reason"] for choice in choices if choice["index"] == index and choice["finish_reason"]]


async def test_a_chat_answer_has_openais_shape(server: Running) -> None:
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


async def test_a_stream_begins_with_the_role_and_ends_with_reason_and_done(server: Running) -> None:
    pending = server.streaming("chat/completions", messages=HELLO)
    submit = await server.engine.submit()
    await server.engine.say(submit, server.tokens("北京 is fine"), "stop")
    events = await pending
    assert events[-1] == "[DONE]"
    chunks = chunks_of(events)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert contents(events) == "北京 is fine"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert "usage" not in chunks[0]


async def test_a_stream_shows_each_token_as_soon_as_the_engine_has_it(server: Running) -> None:
    stream = server.events("chat/completions", messages=HELLO)
    opening = asyncio.ensure_future(anext(stream))
    submit = await server.engine.submit()
    tokens = server.tokens("the sum")
    for i, token_id in enumerate(tokens):
        await server.engine.write(submit, token_id)
        if i == 0:
            assert (await opening)["choices"][0]["delta"]["role"] == "assistant"
        event = await anext(stream)
        assert event["choices"][0]["delta"]["content"] == server.tokenizer.decode([token_id])
    await server.engine.write(submit, finish_reason="length")
    assert reasons([event async for event in stream]) == ["length"]


@pytest.mark.parametrize("continuous", [False, True])
async def test_usage_is_streamed_on_demand(server: Running, continuous: bool) -> None:
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    pending = server.streaming("chat/completions", messages=HELLO, stream_options=options)
    submit = await server.engine.submit()
    await server.engine.write(submit, *server.tokens("ab"), cached_tokens=3)
    await server.engine.write(submit, finish_reason="length")
    events = await pending
    *chunks, last = chunks_of(events)
    assert last["choices"] == []
    completion_tokens = len(server.tokens("ab"))
    assert last["usage"] == {
        "prompt_tokens": len(submit.prompt_ids),
        "completion_tokens": completion_tokens,
        "total_tokens": len(submit.prompt_ids) + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert all((chunk["usage"] is not None) == continuous for chunk in chunks)


async def test_n_choices_are_submitted_together_and_each_has_its_own_sequence_and_ending(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, n=3, priority=-2, max_tokens=9)
    message = await server.engine.next()
    assert isinstance(message, Submit)
    assert (len(set(message.request_ids)), message.priority) == (3, -2)
    submits = choices_of(message)
    for text, reason, submit in zip(["three", "two", "one"], ["stop", "length", "stop"], submits[::-1], strict=True):
        await server.engine.say(submit, server.tokens(text), reason)
    body = (await pending).json()
    choices = [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in body["choices"]]
    assert choices == [(0, "one", "stop"), (1, "two", "length"), (2, "three", "stop")]
    assert body["usage"]["prompt_tokens"] == len(submits[0].prompt_ids)


async def test_n_choices_stream_side_by_side(server: Running) -> None:
    pending = server.streaming("chat/completions", messages=HELLO, n=2)
    first, second = await server.engine.submits(2)
    await server.engine.step(
        Delta(first.request_id, token_ids=tuple(server.tokens("one"))),
        Delta(second.request_id, token_ids=tuple(server.tokens("two")), finish_reason="length"),
    )
    await server.engine.write(first, finish_reason="stop")
    events = await pending
    assert [contents(events, index) for index in (0, 1)] == ["one", "two"]
    assert [reasons(events, index) for index in (0, 1)] == [["stop"], ["length"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_answer_wherever_tokens_cut_it(server: Running, stream: bool) -> None:
    ask = server.streaming if stream else server.posting
    pending = ask("chat/completions", messages=HELLO, stop=["STOP", "\n\nUser"])
    submit = await server.engine.submit()
    for text in ("x", "\n", "\nUs", "T", "S", "TO", "Pq"):
        await server.engine.write(submit, *server.tokens(text))
    assert await server.engine.aborted() == (submit.request_id,)
    found = await pending
    if stream:
        assert contents(found) == "x\n\nUsT"
        assert chunks_of(found)[-1]["choices"][0]["stop_reason"] == "STOP"
    else:
        (choice,) = found.json()["choices"]
        assert choice["message"]["content"] == "x\n\nUsT"
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "STOP")


async def test_the_stop_string_is_kept_on_demand(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, stop="END", include_stop_str_in_output=True)
    submit = await server.engine.submit()
    await server.engine.write(submit, *server.tokens("the END is"))
    body = (await pending).json()
    assert body["choices"][0]["message"]["content"] == "the END"


async def test_tokens_behind_a_stop_string_are_neither_shown_nor_counted(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, stop="b", return_token_ids=True)
    submit = await server.engine.submit()
    a, b, c = (server.tokens(letter)[0] for letter in "abc")
    await server.engine.write(submit, a, b, c, finish_reason="length")
    body = (await pending).json()
    (choice,) = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "stop")
    assert choice["token_ids"] == [a, b]
    assert body["usage"]["completion_tokens"] == 2


async def test_no_stop_string_counts_before_min_tokens(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, stop="b", min_tokens=2, max_tokens=9)
    submit = await server.engine.submit()
    assert submit.sampling.min_tokens == 2
    await server.engine.write(submit, *(server.tokens(letter)[0] for letter in "abab"))
    body = (await pending).json()
    assert body["choices"][0]["message"]["content"] == "aba"


async def test_text_held_back_for_a_stop_string_is_shown_when_the_answer_ends_otherwise(server: Running) -> None:
    pending = server.streaming("chat/completions", messages=HELLO, stop="END")
    submit = await server.engine.submit()
    await server.engine.write(submit, *server.tokens("the EN"), finish_reason="length")
    events = await pending
    assert contents(events) == "the EN"
    assert reasons(events) == ["length"]


@pytest.mark.parametrize(("keep", "text"), [(False, "hi"), (True, "hib")])
async def test_a_stop_token_ends_the_answer_and_names_itself(server: Running, keep: bool, text: str) -> None:
    stop_token = server.tokens("b")[0]
    pending = server.posting(
        "chat/completions", messages=HELLO, stop_token_ids=[stop_token], include_stop_str_in_output=keep
    )
    submit = await server.engine.submit()
    assert submit.sampling.stop_token_ids == (stop_token,)
    tokens = [*server.tokens("hi"), stop_token]
    await server.engine.write(submit, *tokens, finish_reason="stop", stop_token_id=stop_token)
    body = (await pending).json()
    (choice,) = body["choices"]
    assert choice["message"]["content"] == text
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop_token)
    assert body["usage"]["completion_tokens"] == len(tokens)


async def test_the_end_of_sequence_token_adds_no_text_and_no_stop_reason(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, skip_special_tokens=False)
    submit = await server.engine.submit()
    await server.engine.write(submit, *server.tokens("hi"), 2, finish_reason="stop", stop_token_id=2)
    (choice,) = (await pending).json()["choices"]
    assert choice["message"]["content"] == "hi"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)


async def test_a_character_is_never_streamed_in_halves(server: Running) -> None:
    pending = server.streaming("chat/completions", messages=HELLO)
    submit = await server.engine.submit()
    face = [server.tokenizer._backend.token_to_id(f"<0x{value:02X}>") for value in "😀".encode()]
    await server.engine.say(submit, [*face, *face[:2]])
    events = await pending
    assert contents(events) == "😀"


async def test_logprobs_come_with_bytes_and_alternatives(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, logprobs=True, top_logprobs=2)
    submit = await server.engine.submit()
    assert submit.sampling.logprobs == 2
    good, half = server.tokens("好")[0], server.tokenizer._backend.token_to_id("<0xE5>")
    entries = (
        TokenLogprobs(-0.5, 1, ((good, -0.5), (half, -1.5))),
        TokenLogprobs(float("-inf"), 7, ((good, -0.1), (half, -2.5))),
    )
    await server.engine.write(submit, good, half, logprobs=entries, finish_reason="length")
    (choice,) = (await pending).json()["choices"]
    good_bytes = list("好".encode())
    assert choice["logprobs"]["refusal"] is None
    assert choice["logprobs"]["content"] == [
        {
            "token": "好",
            "logprob": -0.5,
            "bytes": good_bytes,
            "top_logprobs": [
                {"token": "好", "logprob": -0.5, "bytes": good_bytes},
                {"token": "\ufffd", "logprob": -1.5, "bytes": [0xE5]},
            ],
        },
        {
            "token": "\ufffd",
            "logprob": -9999.0,
            "bytes": [0xE5],
            "top_logprobs": [
                {"token": "好", "logprob": -0.1, "bytes": good_bytes},
                {"token": "\ufffd", "logprob": -2.5, "bytes": [0xE5]},
            ],
        },
    ]


async def test_logprobs_without_alternatives_stream_with_their_token(server: Running) -> None:
    pending = server.streaming(
        "chat/completions", messages=HELLO, logprobs=True, return_tokens_as_token_ids=True, return_token_ids=True
    )
    submit = await server.engine.submit()
    assert submit.sampling.logprobs == 0
    await server.engine.write(submit, 300, logprobs=(TokenLogprobs(-0.5, 1),))
    await server.engine.write(submit, finish_reason="length")
    first, *rest = chunks_of(await pending)
    assert first["prompt_token_ids"] == list(submit.prompt_ids)
    choices = [chunk["choices"][0] for chunk in rest]
    assert [token for choice in choices for token in choice["token_ids"]] == [300]
    (entry,) = choices[0]["logprobs"]["content"]
    assert (entry["token"], entry["top_logprobs"]) == ("token_id:300", [])


@pytest.mark.parametrize(
    ("messages", "rendered"),
    [
        ([{"role": "developer", "content": "Be brief."}], "Be brief.\nAssistant: "),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "User: a\nb\nAssistant: ",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
            "User: a\nAssistant: <|end_of_sentence|>Assistant: ",
        ),
    ],
    ids=["developer is system", "text parts are lines", "an assistant may have said nothing"],
)
async def test_messages_reach_the_template_in_its_own_terms(server: Running, messages: Any, rendered: str) -> None:
    pending = server.posting("chat/completions", messages=messages)
    submit = await server.engine.submit()
    assert list(submit.prompt_ids) == server.tokens("<|begin_of_sentence|>" + rendered)
    await server.engine.write(submit, finish_reason="length")
    await pending


async def test_tool_calls_in_the_history_reach_the_template_as_objects(start: Start, tmp_path: Any) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m | tojson(sort_keys=true) }}{% endfor %}", encoding="utf-8")
    calls = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": "not json"}},
        {"id": "3", "type": "custom"},
    ]
    messages = [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "2", "tool_call_id": "1"}]
    async with start(chat_template=str(template)) as server:
        pending = server.posting("chat/completions", messages=messages)
        submit = await server.engine.submit()
        text = server.tokenizer.decode(submit.prompt_ids)
        await server.engine.write(submit, finish_reason="length")
        await pending
    assert '"function": {"arguments": {"x": 1}, "name": "f"}' in text
    assert '"arguments": "not json"' in text
    assert '{"content": "2", "role": "tool", "tool_call_id": "1"}' in text


async def test_continue_final_message_lets_the_model_go_on_with_it(server: Running) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "The answer is"}]
    pending = server.posting("chat/completions", messages=messages, continue_final_message=True)
    submit = await server.engine.submit()
    assert server.tokenizer.decode(submit.prompt_ids).endswith("Assistant: The answer is")
    await server.engine.write(submit, finish_reason="length")
    await pending


async def test_a_long_conversation_is_tokenised_like_a_short_one(start: Start) -> None:
    async with start() as server:
        await server.engine.ready(max_model_len=20_000)
        await until(lambda: server.server.service.max_model_len == 20_000)
        messages = [{"role": "user", "content": "天气 " * 2000}]
        pending = server.posting("chat/completions", messages=messages, cache_salt="tenant")
        submit = await server.engine.submit()
        assert list(submit.prompt_ids) == server.tokenizer.encode_chat(messages)
        assert submit.cache_salt == "tenant"
        assert submit.sampling.max_tokens == 20_000 - len(submit.prompt_ids)
        await server.engine.write(submit, finish_reason="length")
        await pending


async def test_every_sampling_field_reaches_the_engine(server: Running) -> None:
    wanted = {
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 4,
        "min_p": 0.1,
        "seed": 5,
        "presence_penalty": 1.5,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.25,
        "ignore_eos": True,
        "stop_token_ids": [4, 5],
    }
    pending = server.posting("chat/completions", messages=HELLO, logit_bias={"5": -100, "6": 1.5}, **wanted)
    sampling = (submit := await server.engine.submit()).sampling
    await server.engine.write(submit, finish_reason="length")
    assert (await pending).status_code == 200
    found = {name: getattr(sampling, name) for name in wanted}
    assert {**found, "stop_token_ids": list(sampling.stop_token_ids)} == wanted
    assert sampling.logit_bias == {5: -100, 6: 1.5}


async def test_unset_sampling_fields_come_from_the_checkpoints_generation_config(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, top_k=-1, seed=-1, max_completion_tokens=3)
    sampling = (submit := await server.engine.submit()).sampling
    await server.engine.write(submit, finish_reason="length")
    await pending
    assert (sampling.temperature, sampling.top_p) == (0.8, 0.8)
    assert (sampling.top_k, sampling.seed, sampling.min_p, sampling.repetition_penalty) == (0, None, 0.0, 1.0)
    assert sampling.max_tokens == 3
