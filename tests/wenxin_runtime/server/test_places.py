"""Places are limited, and whoever leaves gives its place back."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.wenxin_runtime.server.conftest import Running, Start
from tests.wenxin_runtime.server.processes import TIMEOUT_SECONDS, until
from wenxin_runtime.ipc import Submit
from wenxin_runtime.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "hi"}]


async def crowd(server: Running, count: int) -> list[tuple[asyncio.Task, Submit]]:
    found = []
    for _ in range(count):
        pending = server.posting("completions", prompt="hi")
        found.append((pending, await server.engine.submit()))
    return found


async def test_one_request_beyond_slots_and_queue_is_refused_with_retry_after(start: Start) -> None:
    async with start(max_num_seqs=1, queue_size=2) as server:
        crowded = await crowd(server, 3)
        response = await server.post("completions", prompt="hi")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "service_unavailable"
        assert await server.metric("wenxin_rejections_total", reason="overloaded") == 1
        await server.engine.write(crowded[0][1], 300, finish_reason="length")
        await crowded[0][0]
        pending = server.posting("completions", prompt="hi")
        for submit in [crowded[1][1], crowded[2][1], await server.engine.submit()]:
            await server.engine.write(submit, 300, finish_reason="length")
        assert (await pending).status_code == 200
        assert await server.metric("wenxin_requests_total", finish_reason="length") == 4


async def test_a_request_takes_as_many_places_as_it_has_choices_or_none(start: Start) -> None:
    async with start(max_num_seqs=2, queue_size=1) as server:
        (pending, submit), *_ = await crowd(server, 1)
        assert (await server.post("completions", prompt=["a", "b", "c"])).status_code == 503
        assert (await server.post("completions", prompt="a", n=4)).status_code == 400
        assert (await server.load())["waiting"] == 1
        await server.engine.write(submit, finish_reason="length")
        await pending


async def test_load_and_gauges_tell_waiting_from_running(start: Start) -> None:
    async with start(max_num_seqs=1, queue_size=9) as server:
        crowded = await crowd(server, 3)
        await server.engine.step(running=1, waiting=2, kv_blocks_used=8, kv_blocks_total=64)
        await until(lambda: server.server.service.engine.running == 1)
        assert await server.load() == {
            "waiting": 2,
            "running": 1,
            "slots": 1,
            "queue_size": 9,
            "kv_usage": 0.125,
            "draining": False,
        }
        assert await server.metric("wenxin_queue_depth") == 2
        assert await server.metric("wenxin_requests_running") == 1
        assert await server.metric("wenxin_kv_usage_ratio") == 0.125
        for pending, submit in crowded:
            await server.engine.write(submit, finish_reason="length")
            await pending


async def leave(
    server: Running, body: bytes, *, read: bytes = b"", path: str = "/v1/chat/completions"
) -> asyncio.StreamWriter:
    """Send a request by hand, wait for `read` in the answer if given, and return the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.server.url.rsplit(":", 1)[1]))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    if read:
        await asyncio.wait_for(reader.readuntil(read), TIMEOUT_SECONDS)
    return writer


@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_leaves_before_the_answer_frees_every_sequence(start: Start, n: int) -> None:
    async with start() as server:
        writer = await leave(server, json.dumps({"messages": HELLO, "n": n}).encode())
        submits = await server.engine.submits(n)
        writer.close()
        aborted = await server.engine.aborted()
        assert sorted(aborted) == sorted(submit.request_id for submit in submits)
        assert (await server.load())["waiting"] == 0
        assert await server.metric("wenxin_requests_total", finish_reason="abort") == n


async def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_its_sequence(start: Start) -> None:
    async with start() as server:
        opening = asyncio.create_task(
            leave(server, json.dumps({"messages": HELLO, "stream": True, "n": 2}).encode(), read=b"assistant")
        )
        first, second = await server.engine.submits(2)
        await server.engine.write(first, 300, finish_reason="length")
        (await opening).close()
        assert await server.engine.aborted() == (second.request_id,)
        # What the engine says about it afterwards disturbs nobody.
        await server.engine.write(second, 300)
        pending = server.posting("completions", prompt="hi")
        await server.engine.write(await server.engine.submit(), finish_reason="length")
        assert (await pending).status_code == 200


async def test_a_client_that_leaves_while_it_sends_is_forgotten(start: Start) -> None:
    async with start() as server:
        port = int(server.server.url.rsplit(":", 1)[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await server.client.get("/health")).status_code == 200
        assert (await server.load())["waiting"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_the_engine_gives_up_ends_with_an_error_and_alone(start: Start, stream: bool) -> None:
    async with start() as server:
        neighbour = server.posting("completions", prompt="hi")
        neighbours = await server.engine.submit()
        pending = server.posting("completions", prompt="hi", stream=stream)
        submit = await server.engine.submit()
        await server.engine.write(submit, finish_reason="error", error="no token could be chosen")
        response = await pending
        assert response.status_code == 500
        assert response.json()["error"] == {
            "message": "no token could be chosen",
            "type": "internal_error",
            "param": None,
            "code": "generation_failed",
        }
        await server.engine.write(neighbours, finish_reason="length")
        assert (await neighbour).status_code == 200
        assert await server.metric("wenxin_requests_total", finish_reason="error") == 1


async def test_a_request_that_is_given_up_in_the_middle_of_a_stream_ends_with_an_error_event(start: Start) -> None:
    async with start() as server:
        pending = server.streaming("completions", prompt="hi", n=2)
        first, second = await server.engine.submits(2)
        await server.engine.write(first, 300)
        await server.engine.write(first, finish_reason="error", error="it overflowed")
        assert await server.engine.aborted() == (second.request_id,)
        events = await pending
        assert "[DONE]" not in events
        assert events[-1]["error"]["message"] == "it overflowed"


LEAVE_AT_FIRST_TOKEN = "leave"
WAYS: list[dict] = [
    {"prompt": ["a"], "max_tokens": 5},
    {"prompt": ["a"], "max_tokens": 0},
    {"prompt": ["a", "b"], "max_tokens": 3, "n": 2, "stream": True},
    {"prompt": ["a"], "max_tokens": 200, "stop": "the"},
    {"prompt": ["a"], "max_tokens": 200, "stream": True, "stop": ["京", "北"], "n": 3},
    {"prompt": ["a"], "max_tokens": 250, "stream": True, "n": 2, LEAVE_AT_FIRST_TOKEN: True},
]
VISITS = WAYS * 12


async def test_however_clients_behave_every_sequence_has_exactly_one_ending(start: Start, model_dir: Path) -> None:
    tokens = ",".join(str(token) for token in Tokenizer.load(model_dir).encode("ab of 北 it the 京 so"))
    async with start(tokens=tokens, max_num_seqs=8, queue_size=1000) as server:
        await asyncio.gather(*(visit(server, body) for body in VISITS))
        engine, registry = server.server.service.engine, server.server.service.metrics.registry
        await until(engine.idle.is_set)
        ended = {
            reason: registry.get_sample_value("wenxin_requests_total", {"finish_reason": reason})
            for reason in ("stop", "length", "abort", "error")
        }
        assert sum(ended.values()) == sum(len(body["prompt"]) * body.get("n", 1) for body in VISITS)
        assert ended["error"] == 0
        assert min(ended["stop"], ended["length"], ended["abort"]) > 0
        load = await server.load()
        assert (load["waiting"], load["running"]) == (0, 0)


async def visit(server: Running, body: dict) -> None:
    content = json.dumps(body).encode()
    if body.get(LEAVE_AT_FIRST_TOKEN):
        (await leave(server, content, path="/v1/completions", read=b"data: ")).close()
    else:
        assert (await server.client.post("/v1/completions", content=content)).status_code == 200
