"""How far a download is: lines for people, and GET /load for the operator."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec

from wenxin_runtime.download.folder import gigabytes

_LINE_SECONDS = 5.0
_SAMPLE_SECONDS = 1.0
_SAMPLES = 30

logger = logging.getLogger(__name__)


class Load(msgspec.Struct, frozen=True):
    """The body of GET /load.

    Attributes:
        phase: listing, downloading or inspecting.
        done: Bytes on disk.
        total: Bytes in all; 0 while that is not known.
        files: Verified files.
        files_total: Files in all; 0 while that is not known.
        bytes_per_second: Received, over the last half minute.
    """

    phase: str
    done: int
    total: int
    files: int
    files_total: int
    bytes_per_second: float


@dataclass(slots=True)
class Progress:
    """What is known of a download's progress; `done` and `files` are asked when somebody wants to know.

    Attributes:
        received: Bytes that came over the network in this run.
    """

    phase: str = "listing"
    total: int = 0
    files_total: int = 0
    received: int = 0
    done: Callable[[], int] = lambda: 0
    files: Callable[[], int] = lambda: 0
    _samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def sample(self, now: float) -> None:
        """Note how much has been received by `now`, in seconds."""
        self._samples.append((now, self.received))

    @property
    def load(self) -> Load:
        """The state of things."""
        return Load(self.phase, self.done(), self.total, self.files(), self.files_total, self._rate())

    @property
    def line(self) -> str:
        """The same for people."""
        load = self.load
        text = f"{gigabytes(load.done)} of {gigabytes(load.total)}, {load.files} of {load.files_total} files verified"
        if not load.bytes_per_second:
            return text
        left = (load.total - load.done) / load.bytes_per_second
        return f"{text}, {load.bytes_per_second / 1e6:.1f} MB/s, about {_spelled(left)} left"

    def _rate(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start)


async def tell(progress: Progress) -> None:
    """Log a line every few seconds, for as long as this runs."""
    told = time.monotonic()
    while True:
        await asyncio.sleep(_SAMPLE_SECONDS)
        now = time.monotonic()
        progress.sample(now)
        if progress.phase == "downloading" and now - told >= _LINE_SECONDS:
            logger.info("%s", progress.line)
            told = now


@contextlib.asynccontextmanager
async def served(progress: Progress, host: str, port: int | None) -> AsyncIterator[None]:
    """Answer GET /load and /health while the body runs; not at all without a port.

    Raises:
        ConfigError: the address cannot be had.
    """
    if port is None:
        yield
        return
    from starlette.applications import Starlette  # noqa: PLC0415 - half a second that a download by hand need not wait
    from starlette.requests import Request  # noqa: PLC0415 - same
    from starlette.responses import Response  # noqa: PLC0415 - same
    from starlette.routing import Route  # noqa: PLC0415 - same

    from wenxin_runtime.server.http import json_response  # noqa: PLC0415 - same
    from wenxin_runtime.server.serve import http_server, listen, url_of  # noqa: PLC0415 - same
    from wenxin_runtime.server.service import Health  # noqa: PLC0415 - same

    async def load(_: Request) -> Response:
        return json_response(progress.load)

    async def health(_: Request) -> Response:
        return json_response(Health("alive"))

    listener = listen(host, port)
    server = http_server(Starlette(routes=[Route("/load", load), Route("/health", health)]))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    logger.info("listening on %s", url_of(listener))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _spelled(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
