"""A real Redis for benchmarks and tests: on a socket or a port of its own, to be stopped, frozen and started again."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

_START_SECONDS = 20.0


@dataclass
class RedisServer:
    """One redis-server that keeps nothing on disk.

    Attributes:
        directory: Its own, for its socket.
        port: Where it listens on 127.0.0.1; without one it has its socket only.
        mode: More words behind redis-server, such as a file and --sentinel.
    """

    directory: Path
    port: int = 0
    mode: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.directory}/redis.sock"

    @property
    def client(self) -> redis.Redis:
        """A client of one's own, to look behind the scenes; a context manager."""
        return redis.Redis.from_url(self.url)

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it is not installed, or does not start.
        """
        if not shutil.which("redis-server"):
            raise RuntimeError("install redis-server (on Debian the package of that name)")
        place = ("--port", str(self.port), "--bind", "127.0.0.1")
        door = place if self.port else ("--port", "0", "--unixsocket", str(self.directory / "redis.sock"))
        nothing_kept = () if "--sentinel" in self.mode else ("--save", "", "--appendonly", "no")
        command = ["redis-server", *self.mode, *door, *nothing_kept, *options]
        self.process = subprocess.Popen(command, cwd=self.directory, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while not self._up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it as a lost node would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it stand still: its connections stay, and it says nothing."""
        if self.process is None:
            raise RuntimeError("it does not run")
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _up(self) -> bool:
        try:
            with self.client as client:
                client.ping()
        except (redis.AuthenticationError, redis.ResponseError):
            return True  # it wants a password
        except redis.ConnectionError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on; those of a cluster leave room for its bus, 10000 higher."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in range(20_000 + int(time.monotonic() * 1000) % 10_000, 52_000):
            try:
                for number in (port, port + 10_000):
                    held.enter_context(contextlib.closing(socket.create_server(("127.0.0.1", number))))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free port")
