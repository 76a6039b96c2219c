"""The answer cache through HTTP: a scripted engine, a real Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.redis_server import RedisServer
from tests.wenxin_runtime.server.conftest import Running, running_server
from tests.wenxin_runtime.server.processes import until
from tests.wenxin_runtime.server.test_tools import CALL, WEATHER, joined
from wenxin_runtime import fixture
from wenxin_runtime.ipc import TokenLogprobs
from wenxin_runtime.server.answers import store

HELLO = [{"role": "user", "content": "hi"}]
GREEDY = {"prompt": "hi", "temperature": 0, "max_tokens": 8}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may be busy: a late Redis is for its own story."""
    monkeypatch.setattr(store, "LOOKUP_SECONDS", 5.0)


@contextlib.asynccontextmanager
async def cached(model_dir: Path, redis_server: RedisServer, **flags: object) -> AsyncIterator[Running]:
    async with running_server(model_dir, redis_url=redis_server.url, **flags) as server:
        await until(lambda: server.server.service.answers.identity is not None)
        yield server


@pytest.fixture(scope="module")
def caller_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixture.write(tmp_path_factory.mktemp("caller"), thinking=True)


@pytest.fixture
async def server(model_dir: Path, redis_server: RedisServer) -> AsyncIterator[Running]:
    async with cached(model_dir, redis_server) as server:
        yield server


async def generated(server: Running, text: str = "hello", path: str = "completions", **body: object) -> dict:
    """Let the engine answer a request, and wait until the answer is kept."""
    with_redis = server.server.service.answers
    pending = server.posting(path, **{**GREEDY, **body})
    await server.engine.say(await server.engine.submit(), server.tokens(text))
    response = await pending
    assert response.status_code == 200, response.text
    await until(lambda: not with_redis._store._writes)
    return {"how": response.headers["x-wenxin-cache"], **response.json()}


def told(answer: dict) -> object:
    return [{**choice} for choice in answer["choices"]], answer["usage"]


async def test_a_repeated_prompt_is_answered_without_the_engine(server: Running) -> None:
    first = await generated(server)
    assert first["how"] == "miss"
    again = await server.post("completions", **GREEDY)
    assert again.headers["x-wenxin-cache"] == "hit"
    assert told(again.json()) == told(first)
    assert again.json()["id"] != first["id"]
    assert await server.metric("wenxin_answer_cache_requests_total", result="hit") == 1
    assert await server.metric("wenxin_answer_cache_hit_seconds_count") == 1
    assert await server.metric("wenxin_requests_total", finish_reason="length") == 1


async def test_another_server_with_the_same_weights_has_the_answer_too(
    model_dir: Path, redis_server: RedisServer, server: Running
) -> None:
    first = await generated(server)
    async with cached(model_dir, redis_server) as other:
        assert told((await other.post("completions", **GREEDY)).json()) == told(first)


async def test_streamed_and_whole_answers_are_the_same_entry(server: Running) -> None:
    first = await generated(server, messages=HELLO, prompt=None, path="chat/completions")
    events = await server.all_events("chat/completions", messages=HELLO, temperature=0, max_tokens=8)
    *chunks, done = events
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert (text, done) == (first["choices"][0]["message"]["content"], "[DONE]")
    assert await server.metric("wenxin_answer_cache_requests_total", result="hit") == 1


async def test_a_tool_call_comes_back_whole_and_streamed(caller_dir: Path, redis_server: RedisServer) -> None:
    body = {"messages": HELLO, "tools": [WEATHER], "temperature": 0, "max_tokens": 99}
    async with cached(caller_dir, redis_server) as server:
        await server.ready(max_model_len=2048)
        await until(lambda: server.server.service.max_model_len == 2048)
        first = await generated(server, "hm</think>" + CALL, "chat/completions", prompt=None, **body)
        again = await server.post("chat/completions", **body)
        *chunks, _ = await server.all_events("chat/completions", **body)
        assert await server.metric("wenxin_answer_cache_requests_total", result="hit") == 2
    said = [choice["message"] for answer in (first, again.json()) for choice in answer["choices"]]
    assert [call["function"]["name"] for message in said for call in message["tool_calls"]] == ["get_weather"] * 2
    (call,) = joined([choice for chunk in chunks for choice in chunk["choices"]])
    assert {**call, "id": ""} == {"id": "", **said[0]["tool_calls"][0]["function"]}
    assert again.json()["usage"] == first["usage"]


async def test_logprobs_and_stop_strings_come_back_as_they_were(server: Running) -> None:
    body = {**GREEDY, "logprobs": 0, "stop": ["lo"]}
    pending = server.posting("completions", **body)
    submit = await server.engine.submit()
    for token_id in server.tokens("hel") + server.tokens("lo"):
        await server.engine.write(submit, token_id, logprobs=(TokenLogprobs(-0.25, 1),))
    first = (await pending).json()
    assert first["choices"][0]["finish_reason"] == "stop"
    await until(lambda: not server.server.service.answers._store._writes)
    again = await server.post("completions", **body)
    assert again.headers["x-wenxin-cache"] == "hit"
    assert told(again.json()) == told(first)


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "ho"},
        {"temperature": 0.5},
        {"max_tokens": 9},
        {"stop": ["x"]},
        {"n": 2},
        {"logprobs": 1},
        {"cache_salt": "team"},
        {"logit_bias": {"5": 1}},
    ],
    ids=str,
)
async def test_whatever_decides_the_tokens_makes_another_answer(server: Running, other: dict) -> None:
    await generated(server)
    pending = server.posting("completions", **{**GREEDY, **other})
    submits = await server.engine.submits(other.get("n", 1))
    for submit in submits:
        await server.engine.write(submit, 300, finish_reason="length")
    assert (await pending).headers["x-wenxin-cache"] == "miss"


async def test_who_has_another_key_shares_no_answer(server: Running) -> None:
    await generated(server)
    with_key = {"authorization": "Bearer one"}
    pending = asyncio.create_task(server.client.post("/v1/completions", json=GREEDY, headers=with_key))
    await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
    assert (await pending).headers["x-wenxin-cache"] == "miss"


async def test_no_cache_generates_anew_and_keeps_it_no_store_neither(
    server: Running, redis_server: RedisServer
) -> None:
    async def fresh(directive: str, token_id: int) -> str:
        headers = {"cache-control": directive}
        pending = asyncio.create_task(server.client.post("/v1/completions", json=GREEDY, headers=headers))
        await server.engine.write(await server.engine.submit(), token_id, finish_reason="length")
        response = await pending
        assert response.headers["x-wenxin-cache"] == "bypass"
        await until(lambda: not server.server.service.answers._store._writes)
        return response.json()["choices"][0]["text"]

    stored = await fresh("no-store", 300)
    with redis_server.client as client:
        assert client.dbsize() == 0
    renewed = await fresh("no-cache", 301)
    assert renewed != stored
    assert (await server.post("completions", **GREEDY)).json()["choices"][0]["text"] == renewed


async def test_where_only_deterministic_answers_repeat_a_drawn_one_does_not(
    model_dir: Path, redis_server: RedisServer
) -> None:
    async with cached(model_dir, redis_server, cache_match="deterministic") as server:
        assert (await generated(server, temperature=1))["how"] == "bypass"
        assert (await generated(server, temperature=1, seed=7))["how"] == "miss"
        assert (await generated(server))["how"] == "miss"


async def test_equal_requests_in_flight_share_one_generation_and_late_ones_see_its_beginning(server: Running) -> None:
    first = server.streaming("completions", **GREEDY)
    submit = await server.engine.submit()
    hel, lo = server.tokens("hel"), server.tokens("lo")
    for token_id in hel:
        await server.engine.write(submit, token_id)
    await until(lambda: server.server.service.answers._flights)
    second = server.posting("completions", **GREEDY)
    await until(lambda: any(len(flight._readers) == 2 for flight in server.server.service.answers._flights.values()))
    await server.engine.say(submit, lo)
    text = "".join(event["choices"][0]["text"] for event in (await first)[:-1])
    shared = await second
    assert shared.headers["x-wenxin-cache"] == "shared"
    assert shared.json()["choices"][0]["text"] == text
    assert await server.metric("wenxin_requests_total", finish_reason="length") == 1


async def test_a_client_that_leaves_does_not_end_what_others_read(server: Running) -> None:
    first = server.posting("completions", **GREEDY)
    submit = await server.engine.submit()
    second = server.posting("completions", **GREEDY)
    flights = server.server.service.answers._flights
    await until(lambda: any(len(flight._readers) == 2 for flight in flights.values()))
    first.cancel()
    await until(lambda: all(len(flight._readers) == 1 for flight in flights.values()))
    await server.engine.say(submit, server.tokens("hello"))
    assert (await second).status_code == 200
    third = server.posting("completions", **{**GREEDY, "prompt": "another"})
    abandoned = await server.engine.submit()
    third.cancel()
    assert await server.engine.aborted() == (abandoned.request_id,)
    assert not flights


async def test_the_engines_error_ends_every_reader_and_is_not_kept(server: Running, redis_server: RedisServer) -> None:
    first, submit = server.posting("completions", **GREEDY), await server.engine.submit()
    second = server.posting("completions", **GREEDY)
    flights = server.server.service.answers._flights
    await until(lambda: any(len(flight._readers) == 2 for flight in flights.values()))
    await server.engine.write(submit, finish_reason="error", error="not finite")
    assert [(await first).status_code, (await second).status_code] == [500, 500]
    with redis_server.client as client:
        assert client.dbsize() == 0
    assert (await generated(server))["how"] == "miss"


async def test_a_hit_needs_no_place(model_dir: Path, redis_server: RedisServer) -> None:
    async with cached(model_dir, redis_server, max_num_seqs=1, queue_size=0) as server:
        await generated(server)
        blocking = server.posting("completions", prompt="long", max_tokens=50)
        submit = await server.engine.submit()
        assert (await server.post("completions", **GREEDY)).headers["x-wenxin-cache"] == "hit"
        refused = await server.post("completions", prompt="other")
        assert refused.status_code == 503
        await server.engine.write(submit, 300, finish_reason="length")
        await blocking


async def test_an_answer_beyond_the_limit_is_not_kept(model_dir: Path, redis_server: RedisServer) -> None:
    async with cached(model_dir, redis_server, cache_max_entry_bytes=20) as server:
        await generated(server)
        assert (await generated(server))["how"] == "miss"


async def test_without_a_redis_there_is_no_header(model_dir: Path) -> None:
    async with running_server(model_dir) as server:
        pending = server.posting("completions", **GREEDY)
        await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
        assert "x-wenxin-cache" not in (await pending).headers


def command_line_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_the_url_of_redis_is_in_no_command_line(server: Running, redis_server: RedisServer) -> None:
    command_line = command_line_of(server.engine.pid)
    assert b"max_num_seqs" in command_line
    assert redis_server.url.encode() not in command_line
