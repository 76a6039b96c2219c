"""What the ranks say to each other beside their work: MessagePack over TCP, each message after four bytes of length.

A rank opens a line to the leader, says Hello, and is told Welcome or Refused. The line then stays open: both ends say
Pulse every second, and Farewell when they leave. Whoever can reach the port can speak, so everything is bounded and
nothing is executed; a network policy keeps strangers away.
"""

import contextlib
import socket
from collections.abc import Iterator
from typing import Self

import msgspec

_LIMIT_BYTES = 64 * 1024
_HEADER_BYTES = 4
_SEND_SECONDS = 2.0


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A rank and what it must have in common with the leader.

    The fields after `version` have defaults, so that a rank of another version is understood well enough to be told so.

    Attributes:
        rank: World rank.
        node: Number of its machine.
        version: Of its runtime.
        checkpoint: Digest of its model directory; empty where the rank before it on its machine has said it.
        flags: Those that must be alike, spelled.
        device: What it computes with.
        memory: That device's bytes; 0 on a CPU.
        dtype: What it computes in.
        trouble: Why it cannot take part; empty if it can.
    """

    rank: int
    node: int
    version: str
    checkpoint: str = ""
    flags: dict[str, str] = {}
    device: str = ""
    memory: int = 0
    dtype: str = ""
    trouble: str = ""


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All ranks have come.

    Attributes:
        host: The leader's address.
        store_port: Where its TCPStore listens.
        orders: ZeroMQ address that it pushes this rank's orders to.
        interface: Network interface for collectives; empty: the one that this line uses.
        pulse_seconds: How often both ends say Pulse.
    """

    host: str
    store_port: int
    orders: str
    interface: str = ""
    pulse_seconds: float = 1.0


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The rank cannot take part: now (`again`, it should ask once more), or with what it has."""

    message: str
    again: bool


class Pulse(msgspec.Struct, frozen=True, tag=True):
    """The process lives.

    Attributes:
        done: Bytes of weights that it has loaded.
        total: Bytes that it has to.
        loaded: Whether it is through.
        orders: How many orders it has carried out.
        leaving: Whether its machine has been told to stop: then the leader finishes what it has accepted, and ends.
    """

    done: int = 0
    total: int = 0
    loaded: bool = False
    orders: int = 0
    leaving: bool = False


class Farewell(msgspec.Struct, frozen=True, tag=True):
    """The sender leaves. With exit code 0 the group ends because it was told to; else `reason` and `message` say why.

    From the leader it is what the others end with, too.
    """

    reason: str = ""
    message: str = ""
    exit_code: int = 0


Message = Hello | Welcome | Refused | Pulse | Farewell

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Gone(Exception):
    """The other end has closed the line, cannot be reached, or makes no sense. The text goes on after "it"."""


class Line:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._unread = bytearray()

    @property
    def own_address(self) -> str:
        """Where the other end sees us."""
        return _plain(self._connection.getsockname()[0])

    @property
    def peer_address(self) -> str:
        """Where we see the other end."""
        return _plain(self._connection.getpeername()[0])

    def fileno(self) -> int:
        """Let selectors wait for it."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            Gone: the other end is, or does not read.
        """
        content = _encode(message)
        try:
            self._connection.sendall(len(content).to_bytes(_HEADER_BYTES, "big") + content)
        except OSError as error:
            raise Gone(f"cannot be reached any more: {error}") from error

    def receive(self) -> list[Message]:
        """Read once, when there is something to read, and return the messages that are now complete.

        Raises:
            Gone: the other end is, or sends what is no message.
        """
        try:
            content = self._connection.recv(_LIMIT_BYTES)
        except OSError as error:
            raise Gone(f"cannot be reached any more: {error}") from error
        if not content:
            raise Gone("has closed its connection")
        self._unread += content
        return list(self._complete())

    def wait(self, seconds: float) -> Message:
        """Return the first message; used before there can be more than one.

        Raises:
            Gone: see `receive`; also when nothing comes in time.
        """
        self._connection.settimeout(seconds)
        try:
            while True:
                for message in self.receive():
                    return message
        finally:
            self._connection.settimeout(_SEND_SECONDS)

    def close(self) -> None:
        """Hang up; the other end gets what was sent before."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    def _complete(self) -> Iterator[Message]:
        while len(self._unread) >= _HEADER_BYTES:
            end = _HEADER_BYTES + int.from_bytes(self._unread[:_HEADER_BYTES], "big")
            if end > _LIMIT_BYTES:
                raise Gone(f"sends {end} bytes at once: that is none of us")
            if len(self._unread) < end:
                return
            try:
                yield _decode(self._unread[_HEADER_BYTES:end])
            except msgspec.MsgspecError as error:
                raise Gone(f"sends what is no message: {error}") from error
            del self._unread[:end]


def _plain(address: str) -> str:
    """Spell an IPv4 address that came through an IPv6 socket as IPv4, and leave out an IPv6 address's zone."""
    return address.removeprefix("::ffff:").partition("%")[0]
