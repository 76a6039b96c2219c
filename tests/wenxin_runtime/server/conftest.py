"""A real server in the test's own event loop, its engine scripted by the test."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.wenxin_runtime.fake_engine import TIMEOUT_SECONDS, FakeEngine, self_writing_command
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime import fixture
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.server.serve import Server, Stop, listen
from wenxin_runtime.tokenizer import Tokenizer

NAME = "ernie-test"


@dataclass
class Running:
    """A server that listens, and all the strings that move it."""

    server: Server
    engine: FakeEngine
    client: httpx.AsyncClient
    stop: Stop
    task: asyncio.Task[None]
    tokenizer: Tokenizer

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/v1/{path}", json=body)

    def posting(self, path: str, **body: Any) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.post(path, **body))

    async def events(self, path: str, **body: Any) -> AsyncIterator[dict[str, Any] | str]:
        """Yield the events of a stream, parsed, and [DONE] as the string it is."""
        async with self.client.stream("POST", f"/v1/{path}", json={**body, "stream": True}) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line:
                    content = line.removeprefix("data: ")
                    yield content if content == "[DONE]" else json.loads(content)

    async def all_events(self, path: str, **body: Any) -> list[dict[str, Any] | str]:
        return [event async for event in self.events(path, **body)]

    def streaming(self, path: str, **body: Any) -> asyncio.Task[list[dict[str, Any] | str]]:
        return asyncio.create_task(self.all_events(path, **body))

    async def metric(self, name: str, **labels: str) -> float:
        text = (await self.client.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        raise AssertionError(f"{name} {labels} is not in /metrics")

    async def load(self) -> dict[str, Any]:
        return (await self.client.get("/load")).json()

    async def ready(self, **changes: object) -> None:
        await self.engine.ready(**changes)
        await until(lambda: self.server.service.why_not_ready is None)


@contextlib.asynccontextmanager
async def running_server(
    model_dir: Path, *, ready: bool = True, tokens: str | None = None, **flags: Any
) -> AsyncIterator[Running]:
    """Run a server; with `tokens` its engine writes these by itself, else the test speaks for the engine."""
    config = RuntimeConfig(model_dir=str(model_dir), port=0, served_model_name=(NAME,), **flags)
    with tempfile.TemporaryDirectory() as directory:
        engine = FakeEngine(Path(directory))
        command = engine.command if tokens is None else self_writing_command(tokens)
        server = Server(config, listen(config.host, config.port), command)
        stop = Stop()
        task = asyncio.create_task(server.run(stop))
        tokenizer = Tokenizer.load(model_dir)
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_SECONDS) as client:
            running = Running(server, engine, client, stop, task, tokenizer)
            try:
                if tokens is None:
                    await engine.started()
                    if ready:
                        await engine.ready()
                if ready:
                    await until(lambda: server.service.why_not_ready is None)
                yield running
            finally:
                stop.ask(0)
                stop.ask(0)
                with contextlib.suppress(Exception):
                    await task
                engine.close()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixture.write(tmp_path_factory.mktemp("checkpoint"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(model_dir: Path) -> AsyncIterator[Running]:
    """One server for all tests of a module that neither stop nor crowd it."""
    async with running_server(model_dir) as running:
        yield running


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(model_dir: Path) -> Start:
    """Start a server: `async with start(max_num_seqs=1) as server:`."""
    return lambda **flags: running_server(model_dir, **flags)
