"""Two machines of a group as two servers on this one, one rank each: from the roll call to the end of both."""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from tests.wenxin_runtime.engine_driver import finish, submit
from tests.wenxin_runtime.server.processes import SERVE_WITH, TIMEOUT_SECONDS, ServerProcess, server_process
from wenxin_runtime import config as runtime_config
from wenxin_runtime import fixture
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.startup import start

QUICK_ENGINE = (sys.executable, str(Path(__file__).with_name("quick_engine.py")))
PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("shared")
    fixture.write(directory, arch="ernie4_5_moe", size="tiny")
    return directory


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def config_of(model_dir: Path, node: int, port: int, **flags) -> RuntimeConfig:
    shared = {"tensor_parallel_size": 2, "enable_expert_parallel": True, "nnodes": 2, "master_port": port}
    own = {"port": 0, "device": "cpu", "cpu_threads": 1, "shutdown_delay": 0}
    return RuntimeConfig(model_dir=str(model_dir), node_rank=node, **(shared | own | flags))


@contextlib.asynccontextmanager
async def node(directory: Path, config: RuntimeConfig) -> AsyncIterator[ServerProcess]:
    directory /= f"node-{config.node_rank}"
    directory.mkdir(exist_ok=True)
    (directory / "termination-log").unlink(missing_ok=True)
    async with server_process([SERVE_WITH, runtime_config.to_json(config), *QUICK_ENGINE], directory) as process:
        yield process


@dataclass
class Nodes:
    first: ServerProcess
    second: ServerProcess
    url: str
    second_url: str
    leader: int
    follower: int

    async def complete(self, **fields) -> dict:
        body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True, **fields}
        async with httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_SECONDS) as client:
            return (await client.post("/v1/completions", json=body)).json()

    @contextlib.asynccontextmanager
    async def streaming(self) -> AsyncIterator[AsyncIterator[str]]:
        """Give the lines to come of a stream that has begun, and would be long."""
        body = {"prompt": PROMPT, "stream": True, "max_tokens": 4000, "ignore_eos": True}
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_SECONDS) as client,
            client.stream("POST", "/v1/completions", json=body) as response,
        ):
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            yield lines


@contextlib.asynccontextmanager
async def serving(model_dir: Path, directory: Path, port: int) -> AsyncIterator[Nodes]:
    """Both, when requests are welcome."""
    async with (
        node(directory, config_of(model_dir, 1, port)) as second,
        node(directory, config_of(model_dir, 0, port)) as first,
    ):
        url, second_url = await first.url(), await second.url()
        leader = int((await first.line(r"engine process (\d+) started"))[1])
        follower = int((await second.line(r"rank 1 on node 1 is process (\d+)"))[1])
        await first.line("serving ")
        yield Nodes(first, second, url, second_url, leader, follower)


async def ended(process: ServerProcess) -> tuple[int, dict]:
    """Return the exit status and the last words."""
    status = await process.ended()
    log = process.termination_log
    return status, json.loads(log.read_text()) if log.exists() else {}


async def all_ended(*processes: ServerProcess, status: int, reason: str) -> list[str]:
    """Return what the processes said when they had all ended in this way."""
    last = [await ended(process) for process in processes]
    assert [(code, words["reason"]) for code, words in last] == [(status, reason)] * len(processes)
    return [words["message"] for _, words in last]


async def check_cut_off(lines: AsyncIterator[str]) -> None:
    last = [line async for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"


async def test_two_nodes_answer_as_one_process_and_end_together_when_told_to(model_dir, tmp_path, port):
    alone = start(RuntimeConfig(model_dir=str(model_dir), device="cpu", cpu_threads=1)).engine
    expected = finish(alone, [submit("a", PROMPT, max_tokens=12, temperature=0.0, ignore_eos=True)])["a"].token_ids
    async with serving(model_dir, tmp_path, port) as nodes:
        found = await nodes.complete(return_token_ids=True)
        assert tuple(found["choices"][0]["token_ids"]) == tuple(expected)
        async with httpx.AsyncClient(base_url=nodes.second_url) as client:
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 200
            assert "wenxin_build_info{" in (await client.get("/metrics")).text
            elsewhere = await client.post("/v1/completions", json={"prompt": "hi"})
            assert elsewhere.status_code == 404
            assert "they go to node 0" in elsewhere.json()["error"]["message"]
        async with nodes.streaming() as lines:
            nodes.second.signal(signal.SIGTERM)
            await nodes.second.line("computing until the leader ends the group")
            await nodes.first.line("another node of the group has been told to stop: so is this one")
            await nodes.first.line("draining: 1 running")
            nodes.first.signal(signal.SIGTERM)  # Kubernetes tells all pods of a group; it is no second time
            for _ in range(3):
                assert "error" not in await anext(line async for line in lines if line)
        assert await ended(nodes.first) == (0, {})
        assert await ended(nodes.second) == (0, {})


async def test_a_rank_killed_on_another_node_ends_both_with_its_number_and_they_form_a_new_group(
    model_dir, tmp_path, port
):
    async with serving(model_dir, tmp_path, port) as nodes, nodes.streaming() as lines:
        os.kill(nodes.follower, signal.SIGKILL)
        await check_cut_off(lines)
        status, words = await ended(nodes.first)
        assert (status, words["reason"]) == (4, "RankLost")
        assert words["message"].startswith("rank 1 on node 1 ")
        status, words = await ended(nodes.second)
        assert (status, words["reason"]) == (4, "RankLost")
        assert "rank 1 on node 1 was ended by SIGKILL" in words["message"]
    async with serving(model_dir, tmp_path, port) as nodes:
        assert (await nodes.complete())["usage"]["completion_tokens"] == 12


async def test_a_killed_leader_ends_the_ranks_of_other_nodes(model_dir, tmp_path, port):
    async with serving(model_dir, tmp_path, port) as nodes, nodes.streaming() as lines:
        os.kill(nodes.leader, signal.SIGKILL)
        await check_cut_off(lines)
        status, words = await ended(nodes.second)
        assert (status, words["reason"]) == (4, "RankLost")
        assert words["message"].startswith("rank 0 ")
        assert (await ended(nodes.first))[0] == 4


async def test_a_frozen_rank_ends_both_nodes_with_its_number(model_dir, tmp_path, port):
    async with serving(model_dir, tmp_path, port) as nodes, nodes.streaming() as lines:
        os.kill(nodes.follower, signal.SIGSTOP)
        await check_cut_off(lines)
        for message in await all_ended(nodes.first, nodes.second, status=4, reason="RankLost"):
            assert message.startswith("rank 1 on node 1 has ")
            assert "hangs" in message


async def test_a_frozen_leader_ends_both_nodes(model_dir, tmp_path, port):
    async with serving(model_dir, tmp_path, port) as nodes, nodes.streaming() as lines:
        os.kill(nodes.leader, signal.SIGSTOP)
        await check_cut_off(lines)
        for message in await all_ended(nodes.first, nodes.second, status=4, reason="RankLost"):
            assert message.startswith("rank 0")
            assert "hangs" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
async def test_a_node_that_cannot_take_part_ends_both_with_its_reason(model_dir, tmp_path, port):
    async with (
        node(tmp_path, config_of(model_dir, 0, port)) as first,
        node(tmp_path, config_of(model_dir, 1, port, device="cuda")) as second,
    ):
        for message in await all_ended(first, second, status=2, reason="GroupMismatch"):
            assert "rank 1 on node 1 (127.0.0.1) cannot take part: --device cuda: torch finds no" in message


async def test_a_node_without_the_leaders_checkpoint_ends_both_with_what_differs(model_dir, tmp_path, port):
    other = tmp_path / "other"
    fixture.write(other, arch="ernie4_5_moe", size="tiny", seed=1)
    async with (
        node(tmp_path, config_of(model_dir, 0, port)) as first,
        node(tmp_path, config_of(other, 1, port)) as second,
    ):
        for message in await all_ended(first, second, status=2, reason="GroupMismatch"):
            assert "rank 1 on node 1 (127.0.0.1) has checkpoint sha256:" in message


async def test_a_node_that_waits_for_the_others_says_so_and_leaves_when_told_to(model_dir, tmp_path, port):
    async with node(tmp_path, config_of(model_dir, 1, port)) as second:
        url = await second.url()
        await second.line(f"waiting for the leader at 127.0.0.1:{port}")
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/health")).status_code == 200
            waiting = await client.get("/health/ready")
            assert waiting.status_code == 503
            assert "have not found each other yet" in waiting.json()["message"]
        second.signal(signal.SIGTERM)
        assert await ended(second) == (0, {})
