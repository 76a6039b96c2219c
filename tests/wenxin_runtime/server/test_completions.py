"""Text completions: prompts of every shape, echo and logprobs."""

from typing import Any

import pytest

from tests.wenxin_runtime.server.conftest import NAME, Running, Start
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.ipc import Delta, TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_completion_has_openais_shape(server: Running) -> None:
    pending = server.posting("completions", prompt="the sum", model=NAME)
    submit = await server.engine.submit()
    assert list(submit.prompt_ids) == server.tokens("the sum")
    assert submit.sampling.max_tokens == 16
    tokens = server.tokens(" of 北京")
    await server.engine.say(submit, tokens, "stop")
    body = (await pending).json()
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 1_700_000_000
    choice = {"index": 0, "text": " of 北京", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    assert body == {
        "object": "text_completion",
        "model": NAME,
        "choices": [choice],
        "usage": {
            "prompt_tokens": len(submit.prompt_ids),
            "completion_tokens": len(tokens),
            "total_tokens": len(submit.prompt_ids) + len(tokens),
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", ["ab"]),
        (["ab", "北京"], ["ab", "北京"]),
        ([300, 301], [(300, 301)]),
        ([[300, 301], [302]], [(300, 301), (302,)]),
        (["ab", [302]], ["ab", (302,)]),
    ],
    ids=["text", "texts", "ids", "lists of ids", "texts and lists of ids"],
)
async def test_a_prompt_may_be_text_or_ids_or_a_batch(server: Running, prompt: Any, prompts: list[Any]) -> None:
    pending = server.posting("completions", prompt=prompt, n=2)
    submits = await server.engine.submits(2 * len(prompts))
    ids = [tuple(server.tokens(one)) if isinstance(one, str) else one for one in prompts]
    assert [submit.prompt_ids for submit in submits] == [one for one in ids for _ in range(2)]
    deltas = (
        Delta(submit.request_id, token_ids=(310 + i,), finish_reason="length", cached_tokens=i)
        for i, submit in enumerate(submits)
    )
    await server.engine.step(*deltas)
    body = (await pending).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(len(submits)))
    assert [choice["text"] for choice in body["choices"]] == [
        server.tokenizer.decode([310 + i]) for i in range(len(submits))
    ]
    assert body["usage"]["prompt_tokens"] == sum(len(one) for one in ids)
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == sum(range(0, len(submits), 2))


async def test_a_streamed_completion_adds_up_to_the_whole_one(server: Running) -> None:
    pending = server.streaming(
        "completions", prompt="ab", return_token_ids=True, stream_options={"include_usage": True}
    )
    submit = await server.engine.submit()
    tokens = server.tokens("北京 is fine")
    await server.engine.say(submit, tokens)
    *events, usage, done = await pending
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(tokens)
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == "北京 is fine"
    assert [token for choice in choices for token in choice["token_ids"]] == tokens
    assert [choice.get("prompt_token_ids") for choice in choices] == [list(submit.prompt_ids)] + [None] * (
        len(choices) - 1
    )
    assert choices[-1]["finish_reason"] == "length"


async def test_a_step_that_completes_no_character_is_not_streamed(server: Running) -> None:
    pending = server.streaming("completions", prompt="ab")
    submit = await server.engine.submit()
    await server.engine.say(submit, [server.tokenizer._backend.token_to_id(f"<0x{b:02X}>") for b in "中".encode()])
    events = await pending
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["中"]


async def test_logprobs_line_up_with_tokens_and_offsets(server: Running) -> None:
    pending = server.posting("completions", prompt="ab", logprobs=1)
    submit = await server.engine.submit()
    city, half = server.tokens("京")[0], server.tokenizer._backend.token_to_id("<0xE5>")
    entries = (
        TokenLogprobs(-0.5, 1, ((city, -0.5), (half, -1.5))),
        TokenLogprobs(-3.0, 9, ((city, -0.25),)),
    )
    await server.engine.write(submit, city, half, logprobs=entries, finish_reason="length")
    (choice,) = (await pending).json()["choices"]
    assert choice["logprobs"] == {
        "text_offset": [0, 1],
        "token_logprobs": [-0.5, -3.0],
        "tokens": ["京", "bytes:\\xe5"],
        "top_logprobs": [{"京": -0.5}, {"京": -0.25, "bytes:\\xe5": -3.0}],
    }


@pytest.mark.parametrize("as_ids", [False, True], ids=["text prompt", "token prompt"])
async def test_echo_shows_the_prompt_before_the_answer(server: Running, as_ids: bool) -> None:
    ids = server.tokens("北京")
    pending = server.streaming("completions", prompt=ids if as_ids else "北京", echo=True)
    submit = await server.engine.submit()
    assert submit.sampling.prompt_logprobs is None
    await server.engine.say(submit, server.tokens("好"))
    events = await pending
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "北京好"


async def test_echo_with_no_tokens_scores_the_prompt(server: Running) -> None:
    pending = server.posting("completions", prompt="北京 is", echo=True, logprobs=1, max_tokens=0)
    submit = await server.engine.submit()
    assert (submit.sampling.max_tokens, submit.sampling.prompt_logprobs) == (0, 1)
    _, *rest = submit.prompt_ids
    scores = (None, *(TokenLogprobs(-1.0 - i, 2, ((token, -1.0 - i),)) for i, token in enumerate(rest)))
    await server.engine.step(Delta(submit.request_id, prompt_logprobs=scores, finish_reason="length"))
    body = (await pending).json()
    (choice,) = body["choices"]
    names = [server.tokenizer.decode([token]) for token in submit.prompt_ids]
    assert choice["text"] == "北京 is"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == names
    assert choice["logprobs"]["token_logprobs"] == [None, *(-1.0 - i for i in range(len(rest)))]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"] == [len("".join(names[:i])) for i in range(len(names))]
    assert body["usage"]["completion_tokens"] == 0


async def test_echo_and_answer_share_one_list_of_logprobs(server: Running) -> None:
    pending = server.posting("completions", prompt=[300, 301], echo=True, logprobs=0, max_tokens=2)
    submit = await server.engine.submit()
    score = TokenLogprobs(-1.0, 2)
    delta = Delta(submit.request_id, token_ids=(302,), logprobs=(score,), prompt_logprobs=(None, score))
    await server.engine.step(delta)
    await server.engine.write(submit, 303, logprobs=(score,), finish_reason="length")
    (choice,) = (await pending).json()["choices"]
    names = [server.tokenizer.decode([token]) for token in (300, 301, 302, 303)]
    assert choice["text"] == "".join(names)
    assert choice["logprobs"]["tokens"] == names
    assert choice["logprobs"]["text_offset"] == [len("".join(names[:i])) for i in range(4)]
    assert choice["logprobs"]["top_logprobs"] == [None, {names[1]: -1.0}, {names[2]: -1.0}, {names[3]: -1.0}]


async def test_a_long_text_is_tokenised_like_a_short_one(start: Start) -> None:
    async with start() as server:
        await server.engine.ready(max_model_len=20_000)
        await until(lambda: server.server.service.max_model_len == 20_000)
        pending = server.posting("completions", prompt="天气 " * 2000)
        submit = await server.engine.submit()
        assert list(submit.prompt_ids) == server.tokens("天气 " * 2000)
        await server.engine.write(submit, finish_reason="length")
        await pending


async def test_a_prompt_may_fill_the_context_when_no_answer_is_wanted(server: Running) -> None:
    pending = server.posting("completions", prompt=[300] * 256, max_tokens=0, echo=True)
    submit = await server.engine.submit()
    await server.engine.write(submit, finish_reason="length")
    assert (await pending).status_code == 200


async def test_the_default_length_shrinks_to_the_room_that_is_left(server: Running) -> None:
    pending = server.posting("completions", prompt=[[300] * 250, [300]])
    submits = await server.engine.submits(2)
    assert [submit.sampling.max_tokens for submit in submits] == [6, 6]
    for submit in submits:
        await server.engine.write(submit, finish_reason="length")
    await pending
