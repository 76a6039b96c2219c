"""An engine that lives and does nothing: frozen, stuck in a deadlock, or turning in circles."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.wenxin_runtime.server.conftest import Running, Start
from tests.wenxin_runtime.server.processes import SERVE_WITH, TIMEOUT_SECONDS, ServerProcess, server_process
from wenxin_runtime import config as runtime_config
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import EngineDied
from wenxin_runtime.ipc import Alive, Ping, Pong
from wenxin_runtime.server.engine_process import ENGINE_COMMAND
from wenxin_runtime.server.watchdog import Watchdog

STUCK_ENGINE = (sys.executable, str(Path(__file__).with_name("stuck_engine.py")))


@contextlib.asynccontextmanager
async def streaming(
    command: Sequence[str], model_dir: Path, directory: Path, stall_timeout: float
) -> AsyncIterator[tuple[ServerProcess, int, AsyncIterator[str]]]:
    """A server with a real engine in the middle of a stream: the server, the engine's pid, the lines to come."""
    config = RuntimeConfig(
        model_dir=str(model_dir), port=0, device="cpu", cpu_threads=1, engine_stall_timeout=stall_timeout
    )
    body = {"prompt": "hi", "stream": True, "max_tokens": 500, "ignore_eos": True}
    async with (
        server_process([SERVE_WITH, runtime_config.to_json(config), *command], directory) as process,
        contextlib.AsyncExitStack() as stack,
    ):
        url = await process.url()
        pid = int((await process.line(r"engine process (\d+) started"))[1])
        await process.line("serving ")
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS))
        response = await stack.enter_async_context(client.stream("POST", "/v1/completions", json=body))
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield process, pid, lines


async def check_given_up(process: ServerProcess, lines: AsyncIterator[str]) -> None:
    last = [line async for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"
    assert await process.ended() == 4
    last_words = json.loads(process.termination_log.read_text())
    assert last_words["reason"] == "EngineStalled"
    assert "--engine-stall-timeout" in last_words["message"]
    assert "1 sequences running and 0 waiting" in last_words["message"]


async def test_a_frozen_engine_ends_every_request_and_the_process_with_a_reason(
    model_dir: Path, tmp_path: Path
) -> None:
    async with streaming(ENGINE_COMMAND, model_dir, tmp_path, 1) as (process, pid, lines):
        os.kill(pid, signal.SIGSTOP)
        await check_given_up(process, lines)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_deadlock_leaves_its_stack_in_the_log(model_dir: Path, tmp_path: Path) -> None:
    async with streaming(STUCK_ENGINE, model_dir, tmp_path, 1) as (process, _, lines):
        await check_given_up(process, lines)
    assert "in stand_still" in "".join(process.lines)


async def test_an_engine_that_goes_on_in_time_is_forgiven(model_dir: Path, tmp_path: Path) -> None:
    async with streaming(ENGINE_COMMAND, model_dir, tmp_path, 6) as (process, pid, lines):
        os.kill(pid, signal.SIGSTOP)
        await process.line("the engine has made no progress for 3 s; it is given up after 6 s")
        os.kill(pid, signal.SIGCONT)
        assert [line async for line in lines if line][-1] == "data: [DONE]"


async def check_stalled(server: Running) -> None:
    with pytest.raises(EngineDied, match="made no progress") as caught:
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)
    assert caught.value.reason == "EngineStalled"


async def test_an_idle_engine_that_does_not_answer_is_stalled_too(start: Start) -> None:
    async with start(engine_stall_timeout=0.4) as server:
        await check_stalled(server)


async def test_an_idle_engine_that_answers_lives_on_for_many_timeouts(start: Start) -> None:
    async with start(engine_stall_timeout=1) as server:
        for _ in range(6):
            assert isinstance(await server.engine.next(), Ping)
            await server.engine.send(Pong(busy=False))
        assert server.server.service.why_not_ready is None


async def test_an_engine_whose_loop_turns_without_computing_anything_is_stalled(start: Start) -> None:
    async with start(engine_stall_timeout=1) as server:
        pending = server.posting("completions", prompt="hi")

        async def turn() -> None:
            while True:
                if isinstance(await server.engine.next(), Ping):
                    await server.engine.send(Pong(busy=True))
                    await server.engine.step(running=1, batch_tokens=0)

        turning = asyncio.create_task(turn())
        response = await pending
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_died")
        await check_stalled(server)
        turning.cancel()


async def test_an_engine_may_take_any_time_to_load(start: Start) -> None:
    async with start(ready=False, engine_stall_timeout=0.01) as server:
        for _ in range(20):
            assert (await server.client.get("/health")).status_code == 200


async def test_a_stalled_engine_that_shares_its_model_says_how_far_the_other_ranks_are(start: Start) -> None:
    async with start(engine_stall_timeout=0.4) as server:
        await server.engine.send(Alive(3600.0, standing=((1, 7), (2, 6))))
        await check_stalled(server)
        assert "orders carried out by the other ranks: rank 1: 7, rank 2: 6" in str(server.server.service.engine.state)


async def test_an_engine_that_has_given_signs_of_life_and_falls_silent_is_given_up(start: Start) -> None:
    async with start() as server:
        pending = server.posting("completions", prompt="hi")
        await server.engine.submit()
        for _ in range(3):
            await server.engine.send(Alive(0.01))
        assert (await pending).json()["error"]["code"] == "engine_died"
        with pytest.raises(EngineDied, match="rank 0, the engine process, has given no sign of life") as caught:
            await asyncio.wait_for(server.task, TIMEOUT_SECONDS)
        assert (caught.value.reason, caught.value.exit_code) == ("RankLost", 4)


async def test_a_timeout_of_zero_asks_never() -> None:
    asked: list[None] = []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Watchdog(0, lambda: asked.append(None)).stalled(), 0.01)
    assert not asked
