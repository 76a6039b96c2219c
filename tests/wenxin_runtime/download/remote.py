"""A web server that can be told to misbehave, byte by byte. What it serves is a face: a function of the request."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def range(self) -> tuple[int, int] | None:
        """First and last byte asked for."""
        value = self.headers.get("range")
        if value is None:
            return None
        first, _, last = value.removeprefix("bytes=").partition("-")
        return int(first), int(last)


@dataclass(frozen=True)
class Reply:
    """`cut`: hang up after so many bytes of the body. `length`: what Content-Length says, "" for none.

    `drips`: from where on bytes come one by one, and never the last: "headers", "body", "" for nowhere.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    length: str | None = None
    drips: str = ""


Face = Callable[[Request], Reply]
Mischief = Callable[[Request, Reply], Reply]


@dataclass
class Remote:
    """A running server.

    Attributes:
        sent: Bytes of bodies.
        hold: Which answers stop half way until `released` is set; `held` counts them.
        most: Exchanges at the same time, at most.
    """

    face: Face
    url: str = ""
    mischief: Mischief | None = None
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    held: int = 0
    active: int = 0
    most: int = 0
    hold: Callable[[Request], bool] | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def asked(self, part: str) -> list[Request]:
        return [request for request in self.requests if part in request.target]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._exchange(await _request(reader), writer):
                pass
        writer.close()

    async def _exchange(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        self.requests.append(request)
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            return await self._answer(request, writer)
        finally:
            self.active -= 1

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        reply = self.face(request)
        if self.mischief is not None:
            reply = self.mischief(request, reply)
        length = str(len(reply.body)) if reply.length is None else reply.length
        headers = reply.headers | ({"Content-Length": length} if length else {"Connection": "close"})
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        end = "X-Drip: " if reply.drips == "headers" else "\r\n"
        writer.write(f"HTTP/1.1 {reply.status} So\r\n{head}{end}".encode())
        if reply.drips:
            await _drip(writer)
        if request.method != "HEAD":
            body = reply.body if reply.cut is None else reply.body[: reply.cut]
            await self._send(request, body, writer)
        await writer.drain()
        return bool(length) and reply.cut is None and length == str(len(reply.body))

    async def _send(self, request: Request, body: bytes, writer: asyncio.StreamWriter) -> None:
        if self.hold is not None and self.hold(request) and not self.released.is_set():
            writer.write(body[: len(body) // 2])
            await writer.drain()
            self.held += 1
            await self.released.wait()
            body = body[len(body) // 2 :]
        writer.write(body)
        self.sent += len(body)


async def _drip(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, target, headers)


@contextlib.asynccontextmanager
async def running(face: Face, tls: ssl.SSLContext | None = None) -> AsyncIterator[Remote]:
    remote = Remote(face)
    connections: set[asyncio.Task[None]] = set()
    transports: list[asyncio.WriteTransport] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(remote.serve(reader, writer))
        connections.add(task)
        transports.append(writer.transport)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    remote.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield remote
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)  # for the loop to let go of them


def content(request: Request, body: bytes, headers: dict[str, str] | None = None) -> Reply:
    """Answer with a file, or the range of it that is asked for."""
    headers = {"Accept-Ranges": "bytes", **(headers or {})}
    if request.range is None:
        return Reply(200, headers, body)
    first, last = request.range
    last = min(last, len(body) - 1)
    return Reply(206, headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1])


def without_ranges(face: Face) -> Face:
    """The same server, but one that never heard of ranges."""
    return lambda request: face(
        replace(request, headers={name: value for name, value in request.headers.items() if name != "range"})
    )


# Mischief: each is done to the first `times` answers whose target holds `part`.


def some(part: str, times: int, change: Callable[[Request, Reply], Reply]) -> Mischief:
    left = times

    def do(request: Request, reply: Reply) -> Reply:
        nonlocal left
        if part not in request.target or request.method != "GET" or left == 0:
            return reply
        left -= 1
        return change(request, reply)

    return do


def dropping(part: str, after: int, times: int = -1) -> Mischief:
    return some(part, times, lambda _, reply: replace(reply, cut=after))


def failing(part: str, status: int, times: int = -1, headers: dict[str, str] | None = None) -> Mischief:
    return some(part, times, lambda *_: Reply(status, headers or {}, b"no"))


def dripping(part: str, where: str, times: int = -1) -> Mischief:
    return some(part, times, lambda _, reply: replace(reply, drips=where))


def flipping(part: str, times: int = -1) -> Mischief:
    """Change one bit of the file's tenth byte from the end, wherever a range holds it."""

    def flip(_: Request, reply: Reply) -> Reply:
        body = bytearray(reply.body)
        body[-10] ^= 4
        return replace(reply, body=bytes(body))

    return some(part, times, flip)
