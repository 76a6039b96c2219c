"""How slowly an answer may come. A byte now and then keeps a read from timing out, and a download from ever ending."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx

LEAST_BYTES_PER_SECOND = 1024
# httpcore's trace events, of the connection and of the way through a proxy alike.
_BEGUN, _COMPLETE = "http11.receive_response_headers.started", "http11.receive_response_headers.complete"


class Paced(httpx.AsyncBaseTransport):
    """Gives up answers whose headers, or a window's worth of whose body, take longer than `window` seconds."""

    def __init__(self, transport: httpx.AsyncBaseTransport, window: float) -> None:
        self._transport = transport
        self._window = window

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        try:
            async with asyncio.timeout(None) as limit:
                # What comes before the headers is a wait for our own pool, or for a connection: that has its own limit.
                async def noted(event: str, _: dict[str, Any]) -> None:
                    if event in (_BEGUN, _COMPLETE):
                        end = asyncio.get_running_loop().time() + self._window
                        limit.reschedule(end if event == _BEGUN else None)

                request.extensions = {**request.extensions, "trace": noted}
                response = await self._transport.handle_async_request(request)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no headers in {self._window:g} s (--stall-timeout)", request=request) from error
        response.stream = _PacedStream(cast("httpx.AsyncByteStream", response.stream), Pace(self._window))
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


class Pace:
    """Judges an answer window by window, as curl does by --speed-limit and --speed-time."""

    def __init__(self, window: float) -> None:
        """Begin the first of the windows of `window` seconds."""
        self._window = window
        self._waited = 0.0
        self._received = 0

    def check(self, waited: float, received: int) -> None:
        """Count a piece of `received` bytes that took `waited` seconds.

        Raises:
            httpx.ReadTimeout: it ends a window with less than 1 KiB a second.
        """
        self._waited += waited
        self._received += received
        if self._waited < self._window:
            return
        if self._received < LEAST_BYTES_PER_SECOND * self._window:
            raise httpx.ReadTimeout(f"{self._received} bytes in {self._waited:.1f} s are too slow (--stall-timeout)")
        self._waited, self._received = 0.0, 0


class _PacedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace

    async def __aiter__(self) -> AsyncIterator[bytes]:
        asked = time.monotonic()
        async for piece in self._stream:
            waited = time.monotonic() - asked  # our own writing does not count
            yield piece
            self._pace.check(waited, len(piece))
            asked = time.monotonic()

    async def aclose(self) -> None:
        await self._stream.aclose()
