"""A TCP port in front of the API server that breaks as networks do: bytes that go nowhere, connections that break."""

import asyncio
import json
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from e2e.harness.control_plane import ControlPlane

T = TypeVar("T")

CHUNK = 1 << 16
SECONDS = 10.0  # in which the loop must have done what it was asked for


class Link:
    """A context manager: a port of 127.0.0.1 whose connections go on to the API server while the link is whole.

    Args:
        plane: Where they go.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._target = int(plane.server_url.rpartition(":")[2])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._whole = True
        self._pumps: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []  # also of frozen connections: who lets go of one closes it
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def kubeconfig(self, of: Path) -> Path:
        """A copy of a kubeconfig, beside it, that comes through here."""
        config = json.loads(of.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        path = of.with_name(f"{of.name}-{self.port}")
        path.write_text(json.dumps(config))
        return path

    def freeze(self) -> int:
        """Carry no byte more of what is connected now, and close nothing: neither side can tell, but by the silence.

        Returns:
            How many connections froze.
        """
        return self._do(self._freeze())

    def cut(self) -> None:
        """Break what is connected, and whatever comes."""
        self._do(self._cut())

    def mend(self) -> None:
        """Carry what comes from now on."""
        self._whole = True

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    async def _freeze(self) -> int:
        frozen = list(self._pumps)
        for pump in frozen:
            pump.cancel()
        await asyncio.gather(*frozen, return_exceptions=True)
        return len(frozen) // 2

    async def _cut(self) -> None:
        self._whole = False  # the port stays: asyncio loses connections that come while a server closes
        await self._freeze()
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()
        await asyncio.sleep(0)  # in which the loop closes the sockets

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.append(writer)
        try:
            onward, onward_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._ends.append(onward_writer)
        if not self._whole:
            writer.transport.abort()
            onward_writer.transport.abort()
            return
        for source, sink in ((reader, onward_writer), (onward, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """One direction, until its source ends; it is not ended for the other side when it is frozen."""
    with suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
        sink.close()
