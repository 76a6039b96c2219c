"""Loading, leaving, and an engine that dies."""

import asyncio
import os
import signal

import httpx
import pytest

from tests.wenxin_runtime.server.conftest import Running, Start
from tests.wenxin_runtime.server.processes import TIMEOUT_SECONDS, until
from wenxin_runtime.errors import EngineDied
from wenxin_runtime.ipc import Fatal, Loading
from wenxin_runtime.server.service import Stage

HELLO = [{"role": "user", "content": "hi"}]


async def until_stage(server: Running, stage: Stage) -> None:
    await until(lambda: server.server.service.stage is stage)


async def test_a_server_that_loads_is_alive_but_not_ready_and_says_how_far_it_is(start: Start) -> None:
    async with start(ready=False) as server:
        await server.engine.send(Loading(done=300, total=1000))
        await until(lambda: server.server.service.engine.state == Loading(300, 1000))
        assert (await server.client.get("/health")).status_code == 200
        assert (await server.client.get("/ping")).status_code == 200
        response = await server.client.get("/health/ready")
        assert response.status_code == 503
        assert response.json() == {
            "status": "loading",
            "message": "the engine is loading the weights",
            "done": 300,
            "total": 1000,
        }
        for refused in (await server.post("completions", prompt="hi"), await server.client.get("/v1/models")):
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "10"
            assert refused.json()["error"]["code"] == "loading"
        assert await server.metric("wenxin_rejections_total", reason="loading") == 2
        await server.ready()
        response = await server.client.get("/health/ready")
        assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_loading_progress_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with start(ready=False) as server:
        await server.engine.send(Loading(done=0, total=0))
        await server.engine.send(Loading(done=250, total=1000))
        await server.ready()
    assert "loading weights: 25 % (250 of 1000 bytes)" in caplog.text
    assert "engine ready in 0.5 s on fake, float32" in caplog.text
    assert "serving ernie-test on http://127.0.0.1:" in caplog.text


async def test_a_server_asked_to_stop_while_loading_stops_at_once(start: Start) -> None:
    async with start(ready=False, shutdown_delay=300) as server:
        server.stop.ask(300)
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)


async def test_a_leaving_server_is_not_ready_but_serves_with_connection_close(start: Start) -> None:
    async with start() as server:
        assert "connection" not in (await server.client.get("/v1/models")).headers
        server.stop.ask(300)
        await until_stage(server, Stage.LEAVING)
        response = await server.client.get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (503, "leaving")
        assert (await server.client.get("/health")).status_code == 200
        assert (await server.load())["draining"] is True
        pending = server.posting("completions", prompt="hi")
        await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
        response = await pending
        assert response.status_code == 200
        assert response.headers["connection"] == "close"


async def test_a_draining_server_refuses_new_requests_and_finishes_all_it_accepted(start: Start) -> None:
    async with start(max_num_seqs=1) as server:
        running = server.streaming("completions", prompt="hi")
        first = await server.engine.submit()
        await server.engine.write(first, 300)
        waiting = server.posting("completions", prompt="hi")
        second = await server.engine.submit()
        server.stop.ask(0)
        await until_stage(server, Stage.DRAINING)
        refused = await server.post("completions", prompt="hi")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert refused.headers["connection"] == "close"
        assert "retry-after" in refused.headers
        await server.engine.write(first, 301, finish_reason="length")
        await server.engine.write(second, 302, finish_reason="length")
        assert (await running)[-1] == "[DONE]"
        assert (await waiting).json()["choices"][0]["finish_reason"] == "length"
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)
        with pytest.raises(httpx.ConnectError):
            await server.client.get("/health")


async def test_what_is_open_after_the_drain_timeout_ends_with_an_error(start: Start) -> None:
    async with start(drain_timeout=0.2) as server:
        stream = server.streaming("completions", prompt="hi")
        submit = await server.engine.submit()
        await server.engine.write(submit, 300)
        whole = server.posting("completions", prompt="hi")
        await server.engine.submit()
        server.stop.ask(0)
        response = await whole
        assert response.status_code == 503
        assert response.json()["error"]["message"] == "the server has stopped"
        events = await stream
        assert events[-1]["error"]["code"] == "draining"
        assert "[DONE]" not in events
        metrics = server.server.service.metrics
        assert metrics.registry.get_sample_value("wenxin_requests_total", {"finish_reason": "error"}) == 2
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)


async def test_a_second_signal_ends_everything_at_once(start: Start) -> None:
    async with start() as server:
        pending = server.posting("completions", prompt="hi")
        await server.engine.submit()
        server.stop.ask(300)
        await until_stage(server, Stage.LEAVING)
        server.stop.ask(300)
        assert (await pending).status_code == 503
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)


async def check_died(server: Running, message: str, *, reason: str = "EngineDied", exit_code: int = 4) -> None:
    with pytest.raises(EngineDied, match=message) as caught:
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)
    assert (caught.value.reason, caught.value.exit_code) == (reason, exit_code)


async def test_an_engine_killed_in_the_middle_of_a_stream_ends_every_request_with_an_error(start: Start) -> None:
    async with start() as server:
        stream = server.streaming("chat/completions", messages=HELLO)
        first = await server.engine.submit()
        await server.engine.write(first, *server.tokens("half an"))
        whole = server.posting("completions", prompt="hi", n=2)
        await server.engine.submits(2)
        os.kill(server.engine.pid, signal.SIGKILL)
        events = await stream
        assert events[-1]["error"]["code"] == "engine_died"
        assert events[-2]["choices"][0]["delta"]["content"] == "half an"
        assert "[DONE]" not in events
        response = await whole
        assert response.status_code == 503
        assert "SIGKILL mostly means out of memory" in response.json()["error"]["message"]
        await check_died(server, "SIGKILL")
        metrics = server.server.service.metrics
        assert metrics.registry.get_sample_value("wenxin_requests_total", {"finish_reason": "error"}) == 3


async def test_a_dead_engine_turns_liveness_and_readiness_off(start: Start) -> None:
    async with start() as server:
        # An answer that nobody reads keeps the server from leaving while we look at it.
        pending = server.posting("completions", prompt="hi")
        await server.engine.submit()
        service = server.server.service
        service.engine._on_death(EngineDied("gone"))
        assert (await server.client.get("/health")).status_code == 503
        response = await server.client.get("/health/ready")
        assert (response.status_code, response.json()) == (503, {"status": "engine_died", "message": "gone"})
        assert (await server.post("completions", prompt="hi")).json()["error"]["code"] == "engine_died"
        assert (await pending).status_code == 503
        assert await server.metric("wenxin_rejections_total", reason="engine_died") == 1


async def test_a_reason_that_the_engine_reports_is_the_servers_own(start: Start) -> None:
    async with start(ready=False) as server:
        await server.engine.send(Fatal("OutOfDeviceMemory", "the weights do not fit", 7))
        await check_died(server, "the weights do not fit", reason="OutOfDeviceMemory", exit_code=7)


@pytest.mark.parametrize("status", [0, 3])
async def test_an_engine_that_ends_without_a_word_is_dead(start: Start, status: int) -> None:
    async with start() as server:
        await server.engine.exit(status)
        await check_died(server, f"exit status {status}")


async def test_an_engine_that_talks_nonsense_ends_the_server_and_every_request(start: Start) -> None:
    async with start() as server:
        pending = server.posting("completions", prompt="hi")
        await server.engine.submit()
        await server.engine.garble()
        assert (await pending).status_code == 503
        with pytest.raises(Exception, match="malformed"):
            await asyncio.wait_for(server.task, TIMEOUT_SECONDS)


async def test_an_engine_that_dies_during_the_drain_fails_the_server(start: Start) -> None:
    async with start() as server:
        pending = server.posting("completions", prompt="hi")
        await server.engine.submit()
        server.stop.ask(0)
        await until_stage(server, Stage.DRAINING)
        os.kill(server.engine.pid, signal.SIGKILL)
        assert (await pending).status_code == 503
        await check_died(server, "SIGKILL")
