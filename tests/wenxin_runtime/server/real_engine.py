"""A server with the real engine, as the `openai` package sees it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.server.engine_process import ENGINE_COMMAND
from wenxin_runtime.server.serve import Server, Stop, listen

MODEL = "ernie"


@contextlib.asynccontextmanager
async def openai_client(model_dir: Path, **flags: Any) -> AsyncIterator[AsyncOpenAI]:
    """Serve a checkpoint on one thread, and end the server at once on leaving."""
    config = RuntimeConfig(
        model_dir=str(model_dir),
        port=0,
        served_model_name=(MODEL,),
        device="cpu",
        cpu_threads=1,
        max_model_len=1024,
        max_num_seqs=8,
        **flags,
    )
    server, stop = Server(config, listen(config.host, config.port), ENGINE_COMMAND), Stop()
    running = asyncio.create_task(server.run(stop))
    try:
        await until(lambda: server.service.why_not_ready is None)
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield client
    finally:
        stop.ask(0)
        stop.ask(0)
        with contextlib.suppress(Exception):
            await running
