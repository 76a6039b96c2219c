"""A server in a process of its own, as a pod runs it."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60.0
SERVE_WITH = str(Path(__file__).with_name("serve_with.py"))


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition`, a function or a coroutine function, holds."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.005)


@dataclass
class ServerProcess:
    process: asyncio.subprocess.Process
    termination_log: Path
    lines: list[str] = field(default_factory=list)

    async def line(self, pattern: str) -> re.Match[str]:
        """Read the log until a line matches."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert self.process.stderr is not None
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"no line matches {pattern!r}:\n{''.join(self.lines)}")

    async def url(self) -> str:
        return (await self.line(r"listening on (http://\S+)"))[1]

    async def ended(self) -> int:
        """Wait for the end, reading the rest of the log."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            _, rest = await self.process.communicate()
            self.lines.append(rest.decode())
        assert self.process.returncode is not None
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.asynccontextmanager
async def server_process(arguments: Sequence[str], directory: Path) -> AsyncIterator[ServerProcess]:
    """Start `python ARGUMENTS`; end it, if need be, on leaving."""
    log = directory / "termination-log"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "WENXIN_TERMINATION_LOG": str(log), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield ServerProcess(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
