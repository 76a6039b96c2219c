"""A server whose model is shared by two processes: what is left when one of the processes goes."""

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.wenxin_runtime.server.processes import TIMEOUT_SECONDS, ServerProcess, server_process, until
from wenxin_runtime import fixture

SHARED = ("--device", "cpu", "--cpu-threads", "1", "--tensor-parallel-size", "2", "--enable-expert-parallel")


def serve(model_dir: Path) -> list[str]:
    return ["-m", "wenxin_runtime", "serve", str(model_dir), "--port", "0", *SHARED]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("shared")
    fixture.write(directory, arch="ernie4_5_moe", size="tiny")
    return directory


@contextlib.asynccontextmanager
async def streaming(
    model_dir: Path, directory: Path
) -> AsyncIterator[tuple[ServerProcess, int, int, AsyncIterator[str]]]:
    """The server in the middle of a stream, the pids of leader and follower, and the lines to come."""
    body = {"prompt": "hi", "stream": True, "max_tokens": 4000, "ignore_eos": True}
    async with server_process(serve(model_dir), directory) as process, contextlib.AsyncExitStack() as stack:
        url = await process.url()
        leader = int((await process.line(r"engine process (\d+) started"))[1])
        await process.line("serving ")
        (follower,) = children(leader)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS))
        response = await stack.enter_async_context(client.stream("POST", "/v1/completions", json=body))
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield process, leader, follower, lines


async def test_a_lost_rank_ends_every_request_and_the_process_with_its_number(model_dir, tmp_path):
    async with streaming(model_dir, tmp_path) as (process, _, follower, lines):
        os.kill(follower, signal.SIGKILL)
        last = [line async for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"
        assert await process.ended() == 4
        last_words = json.loads(process.termination_log.read_text())
        assert last_words["reason"] == "RankLost"
        assert "rank 1 was ended by SIGKILL" in last_words["message"]


async def test_no_follower_outlives_its_leader(model_dir, tmp_path):
    async with streaming(model_dir, tmp_path) as (_, leader, follower, _):
        os.kill(leader, signal.SIGKILL)
        await until(lambda: not lives(follower))


async def test_the_group_ends_when_it_is_told_to(model_dir, tmp_path):
    async with server_process([*serve(model_dir), "--shutdown-delay", "0"], tmp_path) as process:
        leader = int((await process.line(r"engine process (\d+) started"))[1])
        await process.line("serving ")
        (follower,) = children(leader)
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert not lives(follower)


async def test_a_size_that_does_not_divide_is_refused_before_a_rank_is_started(model_dir, tmp_path):
    async with server_process([*serve(model_dir), "--tensor-parallel-size", "3"], tmp_path) as process:
        assert await process.ended() == 2
        message = json.loads(process.termination_log.read_text())["message"]
        assert "--tensor-parallel-size 3 does not divide this model" in message
        assert "these sizes do: 1, 2" in message
