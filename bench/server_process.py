"""Our side: a real `wenxin-runtime serve`, asked over HTTP as any client would."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from bench.streams import Stream

_LOAD_DEADLINE_SECONDS = 600
_STEP_SUM = re.compile(r'^wenxin_step_seconds_sum\{phase="(\w+)"\} (\S+)$', re.MULTILINE)


@contextlib.contextmanager
def serving(model_dir: Path, log: Path, *flags: str) -> Iterator[str]:
    """Serve `model_dir` on a free port; yields the base URL once the model is ready.

    Raises:
        RuntimeError: the server ended or did not become ready in time; the message holds the end of its log.
    """
    command = [
        sys.executable,
        "-m",
        "wenxin_runtime",
        "serve",
        str(model_dir),
        "--port=0",
        "--shutdown-delay=0",
        *flags,
    ]
    with log.open("w") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT) as process:
        try:
            yield _wait_ready(process, log)
        finally:
            process.terminate()
            process.wait(timeout=60)


def ask(base_url: str, model: str, prompts: Sequence[Sequence[int]], output_tokens: int) -> list[Stream]:
    """Stream a greedy answer of exactly `output_tokens` to every prompt at the same time."""

    async def all_at_once() -> list[Stream]:
        async with httpx.AsyncClient(base_url=base_url, timeout=600) as client:
            return await asyncio.gather(*(_stream(client, model, prompt, output_tokens) for prompt in prompts))

    return asyncio.run(all_at_once())


def step_seconds(base_url: str) -> dict[str, float]:
    """Read how long the engine has spent in each phase of its steps, in seconds since its start."""
    text = httpx.get(f"{base_url}/metrics").text
    return {phase: float(value) for phase, value in _STEP_SUM.findall(text)}


async def _stream(client: httpx.AsyncClient, model: str, prompt: Sequence[int], output_tokens: int) -> Stream:
    body = {
        "model": model, "prompt": list(prompt), "max_tokens": output_tokens, "temperature": 0, "stream": True,
        "ignore_eos": True, "return_token_ids": True,
    }  # fmt: skip
    arrivals: list[float] = []
    token_ids: list[int] = []
    started = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                new = choice.get("token_ids") or []
                token_ids += new
                arrivals += [time.perf_counter()] * len(new)
    return Stream(started, tuple(arrivals), tuple(token_ids))


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _LOAD_DEADLINE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"listening on (http://\S+?)[\"\s,]", log.read_text() + " "):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{found[1]}/health/ready", timeout=5).status_code == httpx.codes.OK:
                    return found[1]
        time.sleep(0.2)
    raise RuntimeError(f"the server did not become ready; its log ends:\n{log.read_text()[-2000:]}")
