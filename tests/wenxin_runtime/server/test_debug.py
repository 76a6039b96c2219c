"""/debug: off unless asked for, bounded, and about a real engine process where it matters."""

import asyncio
import gzip
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.wenxin_runtime.server.conftest import Running, Start
from tests.wenxin_runtime.server.processes import TIMEOUT_SECONDS, server_process, until
from wenxin_runtime.ipc import Inspect, Inspected, Profile, Profiled, SequenceState

STATE = SequenceState(
    id="cmpl-0-0",
    running=True,
    group=0,
    prompt_tokens=5,
    generated_tokens=2,
    computed=6,
    in_flight=0,
    max_len=21,
    blocks=1,
)


async def asked(server: Running, path: str, method: str = "POST") -> tuple[asyncio.Task[httpx.Response], object]:
    """A request under way, and what the engine was asked for its sake."""
    pending = asyncio.create_task(server.client.request(method, path))
    return pending, await server.engine.next()


async def test_without_the_flag_there_is_no_such_route(start: Start) -> None:
    async with start() as server:
        assert (await server.client.get("/debug/state")).status_code == 404
        assert (await server.client.post("/debug/profile")).status_code == 404


async def test_the_state_is_the_engines_own_beside_what_load_says(start: Start) -> None:
    async with start(enable_debug_endpoints=True) as server:
        pending, question = await asked(server, "/debug/state", "GET")
        assert question == Inspect()
        await server.engine.send(Inspected(kv_blocks_owned=1, kv_blocks_free=63, compiling=0, sequences=(STATE,)))
        state = (await pending).json()
        assert state["load"] == await server.load()
        assert state["engine"]["sequences"][0] == {
            "id": "cmpl-0-0",
            "running": True,
            "group": 0,
            "prompt_tokens": 5,
            "generated_tokens": 2,
            "computed": 6,
            "in_flight": 0,
            "max_len": 21,
            "blocks": 1,
        }


@pytest.mark.parametrize(
    "query",
    ["seconds=0", "seconds=61", "seconds=-1", "seconds=nan", "seconds=x", "steps=0", "steps=201", "format=html"],
)
async def test_a_profile_is_bounded_and_the_parameter_at_fault_is_named(start: Start, query: str) -> None:
    async with start(enable_debug_endpoints=True) as server:
        response = await server.client.post(f"/debug/profile?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.partition("=")[0]


async def test_one_profile_at_a_time_and_its_directory_goes_with_it(start: Start) -> None:
    async with start(enable_debug_endpoints=True) as server:
        pending, question = await asked(server, "/debug/profile?seconds=2&steps=3&format=text")
        assert isinstance(question, Profile)
        assert (question.seconds, question.steps) == (2, 3)
        assert Path(question.path).parent.is_dir()
        assert (await server.client.post("/debug/profile")).status_code == 409
        await server.engine.send(Profiled(question.path, 3, "a table"))
        response = await pending
        assert (response.text, response.headers["x-wenxin-steps"]) == ("a table", "3")
        assert not Path(question.path).parent.exists()
        # An answer that nobody waits for any more disturbs nobody.
        await server.engine.send(Profiled(question.path, 3, "late"))
        pending, newer = await asked(server, "/debug/profile?format=text")
        await server.engine.send(Profiled(question.path, 3, "later"))
        await server.engine.send(Profiled(newer.path, error="the profiler does not start"))
        failed = await pending
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "profile_failed")


async def test_who_asks_an_engine_that_is_not_ready_or_dies_is_told(start: Start) -> None:
    async with start(enable_debug_endpoints=True, ready=False) as server:
        assert (await server.client.get("/debug/state")).json()["error"]["code"] == "loading"
    async with start(enable_debug_endpoints=True) as server:
        pending, _ = await asked(server, "/debug/state", "GET")
        os.kill(server.engine.pid, signal.SIGKILL)
        assert (await pending).json()["error"]["code"] == "engine_died"


async def test_an_engine_that_does_not_answer_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wenxin_runtime.server.engine_client._ANSWER_SECONDS", 0.05)
    async with start(enable_debug_endpoints=True) as server:
        pending, _ = await asked(server, "/debug/state", "GET")
        assert (await pending).json()["error"]["code"] == "engine_busy"


async def test_a_real_engine_shows_where_a_stream_stands_and_where_its_time_goes(
    model_dir: Path, tmp_path: Path
) -> None:
    flags = ["--port=0", "--device=cpu", "--cpu-threads=1", "--enable-debug-endpoints", "--shutdown-delay=0"]
    async with server_process(["-m", "wenxin_runtime", "serve", str(model_dir), *flags], tmp_path) as process:
        url = await process.url()
        await process.line("serving ")
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS) as client:
            body = {"prompt": [5, 6, 7], "max_tokens": 8000, "ignore_eos": True, "stream": True}
            async with client.stream("POST", "/v1/completions", json=body) as stream:
                assert stream.status_code == 200
                state = (await client.get("/debug/state")).json()
                (sequence,) = state["engine"]["sequences"]
                table = await client.post("/debug/profile?steps=3&format=text")
                trace = await client.post("/debug/profile?steps=3")
            await until(lambda: _idle(client))
            nothing = await client.post("/debug/profile?seconds=0.1&format=text")
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert sequence["running"] is True
    assert sequence["prompt_tokens"] == 3
    assert sequence["blocks"] == state["engine"]["kv_blocks_owned"] > 0
    assert "aten::" in table.text
    assert table.headers["x-wenxin-steps"] == "3"
    names = [event.get("name") for event in json.loads(gzip.decompress(trace.content))["traceEvents"]]
    assert names.count("engine step") == 3
    assert (nothing.status_code, nothing.headers["x-wenxin-steps"]) == (200, "0")


async def _idle(client: httpx.AsyncClient) -> bool:
    return (await client.get("/load")).json()["running"] == 0
