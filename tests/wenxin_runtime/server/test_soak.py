"""The soak story, short, with a real engine and a KV cache that is too small for all: see e2e/stories/test_soak.py."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from e2e.stories.soak import Process, Soak, run
from tests.wenxin_runtime.server.processes import TIMEOUT_SECONDS, until

CONTEXT = 1024
BODY_LIMIT = 2**16
# Of the tiny model a token takes 1536 bytes of cache: room for 1.25 sequences of full length beside 8 slots.
FLAGS = [
    *("--port=0", "--served-model-name=tiny", "--device=cpu", "--cpu-threads=1", "--shutdown-delay=0"),
    *(f"--max-model-len={CONTEXT}", "--max-num-seqs=8", "--queue-size=12", "--max-num-batched-tokens=96"),
    *(f"--kv-cache-memory-bytes={1536 * CONTEXT * 5 // 4}", f"--max-request-bytes={BODY_LIMIT}"),
    "--enable-debug-endpoints",
]


@dataclass
class Server:
    """A server whose log is a file: nobody reads a pipe while it is under load."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def url(self) -> str:
        found = re.search(r"serving tiny on (\S+)/v1", self.said)
        return found[1] if found else ""

    @property
    def said(self) -> str:
        return self.log.read_text()

    def processes(self) -> dict[str, Process]:
        """The server and the engine, its only child."""
        server = self.process.pid
        (engine,) = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        return {"server": seen(server), "engine": seen(int(engine))}


def seen(pid: int) -> Process:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Process(int(fields["VmRSS"].split()[0]) * 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())))


@contextlib.asynccontextmanager
async def serving(model_dir: Path, log: Path) -> AsyncIterator[Server]:
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wenxin_runtime", "serve", str(model_dir), *FLAGS),
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    server = Server(process, log)
    try:
        await until(lambda: server.url or process.returncode is not None)
        assert server.url, server.said
        yield server
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), TIMEOUT_SECONDS) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.timeout(240)
async def test_mixed_load_loses_no_request_leaks_no_block_and_grows_nothing(model_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with serving(model_dir, log) as server:
        soak = Soak(
            url=server.url,
            model="tiny",
            context=CONTEXT,
            body_limit=BODY_LIMIT,
            clients=12,
            warm_up=5,
            seconds=9,
            processes=server.processes,
        )
        report = await run(soak)
        async with httpx.AsyncClient(base_url=server.url) as client:
            state = json.loads((await client.get("/debug/state")).content)["engine"]
    report.check()
    assert (state["kv_blocks_owned"], state["sequences"]) == (0, []), report.summary()
    for name in ("preemptions_total:", "prefix_cache_hits_tokens_total:", "rejections_total:overloaded"):
        assert report.counted[f"wenxin_{name}"] > 0, f"{name}: {report.summary()}"
    text = log.read_text()
    for word in (" ERROR ", "Traceback", "天气"):
        assert word not in text
