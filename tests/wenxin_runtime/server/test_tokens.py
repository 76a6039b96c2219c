"""/tokenize and /detokenize as vLLM has them, and the logprobs of a prompt."""

from typing import Any

import pytest

from tests.wenxin_runtime.server.conftest import NAME, Running, Start
from wenxin_runtime.ipc import TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "你好"}]


async def ask(server: Running, path: str, **body: Any) -> Any:
    return await server.client.post(path, json=body)


async def test_a_prompt_is_counted_and_read_back(server: Running) -> None:
    text = "the weather 北京 😀\n</s>"
    body = (await ask(server, "/tokenize", model=NAME, prompt=text)).json()
    ids = server.tokens(text)
    assert body == {"count": len(ids), "max_model_len": 256, "tokens": ids, "token_strs": None}
    assert (await ask(server, "/detokenize", model=NAME, tokens=ids)).json() == {"prompt": text}


async def test_tokens_are_spelled_on_demand(server: Running) -> None:
    body = (await ask(server, "/tokenize", prompt="the a\n", return_token_strs=True)).json()
    assert len(body["token_strs"]) == body["count"]
    assert body["token_strs"][-1] == "<0x0A>"
    assert "".join(body["token_strs"][:-1]).replace("▁", " ") == "the a"


async def test_a_chat_is_counted_with_its_template(server: Running) -> None:
    body = (await ask(server, "/tokenize", messages=HELLO)).json()
    assert body["tokens"] == server.tokenizer.encode_chat(HELLO)
    open_ended = (await ask(server, "/tokenize", messages=HELLO, add_generation_prompt=False)).json()
    assert open_ended["tokens"] == server.tokenizer.encode_chat(HELLO, add_generation_prompt=False)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"prompt": 7}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/tokenize", {"messages": HELLO, "chat_template": "x"}, "chat_template"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1536]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ],
)
async def test_what_cannot_be_read_is_refused(server: Running, path: str, body: dict[str, Any], param: str) -> None:
    response = await ask(server, path, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_an_unknown_model_and_a_body_beyond_the_limit_are_refused(start: Start) -> None:
    async with start(max_request_bytes=100) as server:
        assert (await ask(server, "/tokenize", model="other", prompt="a")).status_code == 404
        assert (await ask(server, "/detokenize", model="other", tokens=[5])).status_code == 404
        assert (await ask(server, "/tokenize", prompt="a" * 200)).status_code == 413


async def test_a_server_that_loads_says_so(start: Start) -> None:
    async with start(ready=False) as server:
        response = await ask(server, "/tokenize", prompt="a")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "loading")


PROMPT_LOGPROBS = (
    None,
    TokenLogprobs(-1.5, 3, ((7, -0.5), (8, -1.0))),
    TokenLogprobs(float("-inf"), 1, ((300, -0.5),)),
)


async def test_a_prompts_logprobs_have_vllms_shape(server: Running) -> None:
    pending = server.posting("completions", prompt=[5, 6, 300], max_tokens=1, prompt_logprobs=2)
    submit = await server.engine.submit()
    assert (submit.sampling.prompt_logprobs, submit.sampling.logprobs) == (2, None)
    await server.engine.write(submit, 9, prompt_logprobs=PROMPT_LOGPROBS, finish_reason="length")
    (choice,) = (await pending).json()["choices"]
    text = {i: server.tokenizer.pieces[i].decode("utf-8", "replace") for i in (6, 7, 8, 300)}
    assert choice["logprobs"] is None
    assert choice["prompt_logprobs"] == [
        None,
        {
            "6": {"logprob": -1.5, "rank": 3, "decoded_token": text[6]},
            "7": {"logprob": -0.5, "rank": 1, "decoded_token": text[7]},
            "8": {"logprob": -1.0, "rank": 2, "decoded_token": text[8]},
        },
        {"300": {"logprob": -9999.0, "rank": 1, "decoded_token": text[300]}},
    ]


async def test_echo_and_prompt_logprobs_each_get_what_they_asked_for(server: Running) -> None:
    body = {"prompt": [5, 6, 300], "max_tokens": 1, "echo": True, "logprobs": 0, "prompt_logprobs": 1}
    pending = server.posting("completions", **body)
    submit = await server.engine.submit()
    assert submit.sampling.prompt_logprobs == 1
    logprobs = (TokenLogprobs(-0.5, 1),)
    await server.engine.write(submit, 9, prompt_logprobs=PROMPT_LOGPROBS, logprobs=logprobs, finish_reason="length")
    (choice,) = (await pending).json()["choices"]
    assert [found and len(found) for found in choice["prompt_logprobs"]] == [None, 2, 1]
    assert [found and len(found) for found in choice["logprobs"]["top_logprobs"]] == [None, 1, 1, 1]


async def test_a_chats_prompt_logprobs_stand_beside_its_choices(server: Running) -> None:
    pending = server.posting("chat/completions", messages=HELLO, max_tokens=1, prompt_logprobs=0)
    submit = await server.engine.submit()
    assert submit.sampling.prompt_logprobs == 0
    found = (None, *[TokenLogprobs(-1.0, 2)] * (len(submit.prompt_ids) - 1))
    await server.engine.write(submit, 9, prompt_logprobs=found, finish_reason="length")
    body = (await pending).json()
    assert len(body["prompt_logprobs"]) == len(submit.prompt_ids)
    assert list(body["prompt_logprobs"][1]) == [str(submit.prompt_ids[1])]
    assert body["choices"][0]["logprobs"] is None
