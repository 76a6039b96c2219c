"""The process as a pod sees it: signals, exit status, last words."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.wenxin_runtime.fake_engine import FakeEngine
from tests.wenxin_runtime.server.processes import SERVE_WITH, TIMEOUT_SECONDS, ServerProcess, server_process, until
from wenxin_runtime import config as runtime_config
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.ipc import Fatal, Submit


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(tmp_path)
    yield engine
    engine.close()


@contextlib.asynccontextmanager
async def serving(model_dir: Path, engine: FakeEngine, directory: Path, **flags) -> AsyncIterator[ServerProcess]:
    config = RuntimeConfig(model_dir=str(model_dir), port=0, **flags)
    arguments = [SERVE_WITH, runtime_config.to_json(config), *engine.command]
    async with server_process(arguments, directory) as process:
        yield process


@contextlib.asynccontextmanager
async def stream_of(url: str) -> AsyncIterator[AsyncIterator[str]]:
    """Open a stream of a completion and give its lines."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS) as client,
        client.stream("POST", "/v1/completions", json={"prompt": "hi", "stream": True}) as response,
    ):
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield lines


async def open_stream(
    process: ServerProcess, engine: FakeEngine, stack: contextlib.AsyncExitStack
) -> tuple[Submit, AsyncIterator[str]]:
    """Bring the server to the middle of a stream; return the sequence and the rest of the lines."""
    url = await process.url()
    await engine.started()
    await engine.ready()
    async with httpx.AsyncClient(base_url=url) as client:

        async def ready() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        await until(ready)
    opening = asyncio.create_task(stack.enter_async_context(stream_of(url)))
    submit = await engine.submit()
    await engine.write(submit, 300)
    return submit, await opening


@pytest.mark.parametrize(("number", "delay"), [(signal.SIGTERM, 0.1), (signal.SIGINT, 300.0)])
async def test_a_signal_lets_open_streams_finish_and_exits_zero(
    model_dir: Path, engine: FakeEngine, tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    async with (
        serving(model_dir, engine, tmp_path, shutdown_delay=delay) as process,
        contextlib.AsyncExitStack() as stack,
    ):
        submit, lines = await open_stream(process, engine, stack)
        process.signal(number)
        await process.line("draining: ")
        await engine.write(submit, 301, finish_reason="length")
        assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert await process.ended() == 0
    assert not process.termination_log.exists()


async def test_a_second_signal_ends_streams_with_an_error_and_exits_zero(
    model_dir: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    async with (
        serving(model_dir, engine, tmp_path, shutdown_delay=300) as process,
        contextlib.AsyncExitStack() as stack,
    ):
        _, lines = await open_stream(process, engine, stack)
        process.signal(signal.SIGTERM)
        await process.line("still serving for 300 s")
        process.signal(signal.SIGTERM)
        last = [line async for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        assert await process.ended() == 0


async def test_a_killed_engine_ends_the_process_with_a_reason_for_the_operator(
    model_dir: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    async with serving(model_dir, engine, tmp_path) as process, contextlib.AsyncExitStack() as stack:
        _, lines = await open_stream(process, engine, stack)
        os.kill(engine.pid, signal.SIGKILL)
        last = [line async for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"
        assert await process.ended() == 4
    assert json.loads(process.termination_log.read_text())["reason"] == "EngineDied"


async def test_a_fatal_engine_passes_on_its_reason_and_exit_code(
    model_dir: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    async with serving(model_dir, engine, tmp_path) as process:
        await engine.started()
        await engine.send(Fatal("OutOfDeviceMemory", "the weights do not fit", 7))
        assert await process.ended() == 7
    last_words = json.loads(process.termination_log.read_text())
    assert last_words == {"reason": "OutOfDeviceMemory", "message": "the weights do not fit"}


async def test_an_engine_does_not_outlive_a_killed_server(model_dir: Path, engine: FakeEngine, tmp_path: Path) -> None:
    async with serving(model_dir, engine, tmp_path) as process:
        await engine.started()
        process.signal(signal.SIGKILL)
        await process.ended()
        await until(lambda: not Path(f"/proc/{engine.pid}").exists())


async def test_a_taken_port_is_a_matter_of_flags(model_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["-m", "wenxin_runtime", "serve", str(model_dir), "--port", str(port)]
        async with server_process(arguments, tmp_path) as process:
            assert await process.ended() == 2
    last_words = json.loads(process.termination_log.read_text())
    assert last_words["reason"] == "InvalidFlags"
    assert f"--port {port}" in last_words["message"]


async def test_a_directory_that_is_no_checkpoint_is_named_before_an_engine_is_started(tmp_path: Path) -> None:
    async with server_process(["-m", "wenxin_runtime", "serve", str(tmp_path), "--port=0"], tmp_path) as process:
        assert await process.ended() == 3
    last_words = json.loads(process.termination_log.read_text())
    assert last_words["reason"] == "InvalidCheckpoint"
    assert "engine process" not in "".join(process.lines)
    assert str(tmp_path) in last_words["message"]


def test_the_server_process_has_no_torch() -> None:
    """Only the engine process pays for torch, in memory and in start-up time."""
    code = (
        "import sys; from wenxin_runtime import __main__; from wenxin_runtime.server import serve;"
        "print(sorted({'torch', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
