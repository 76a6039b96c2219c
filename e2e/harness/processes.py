"""Long-running processes, recorded by id and start time, and ended only by that record.

An id alone may have been given to a stranger since; the pair (id, start time) names one process for good.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.harness.errors import ProcessError

# Set in whatever `enter` starts: it has a mount namespace of its own, which must not hold the kubelet's mounts.
INSIDE = "WENXIN_INSIDE_CLUSTER_NETWORK"


@dataclass(frozen=True)
class Process:
    """One process that this harness started, and the command that would start it again.

    `started` is in clock ticks since boot, from /proc/PID/stat.
    """

    name: str
    pid: int
    started: int
    command: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """True while this very process runs; a zombie is dead, and is reaped here if it is our child."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return start_time(self.pid) == self.started

    def stop(self, *, grace: float = 5.0, first: signal.Signals = signal.SIGTERM) -> None:
        """Ask with `first`, insist with SIGKILL after `grace` seconds, return once it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor pins the process, so this comparison cannot be overtaken by reuse of the id.
            if not self.alive:
                return
            for number, seconds in ((first, grace), (signal.SIGKILL, 10.0)):
                signal.pidfd_send_signal(descriptor, number)
                if select.select([descriptor], [], [], seconds)[0]:
                    break
            else:
                raise ProcessError(f"{self.name} (pid {self.pid}) survived SIGKILL: it hangs in the kernel.")
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)
            _ = self.alive


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None when there is no such process or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    network: Path | None = None,
    dies_with_parent: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a command in a session of its own, its output appended to `log`.

    Args:
        name: what messages call it.
        command: the program and its arguments.
        log: file for standard output and error.
        network: a network namespace (a path such as /run/netns/wenxin) to run it in.
        dies_with_parent: kill it when the thread that starts it ends, however that ends. In the instant until the
            command itself runs this does not hold yet.
        environment: replaces the environment; by default ours without its proxy settings.
    """
    words = tuple(map(str, command))
    argv = [*_prefix(network, dies_with_parent=dies_with_parent), *words]
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.posix_spawnp(
        argv[0],
        argv,
        without_proxies() if environment is None else environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    started = start_time(pid)
    if started is None:
        raise ProcessError(f"{name} ended at once.\n{tail(log)}")
    return Process(name, pid, started, words)


def _prefix(network: Path | None, *, dies_with_parent: bool) -> list[str]:
    """Both programs replace themselves by the next one, so the process id stays the same."""
    prefix: list[str] = []
    if dies_with_parent:
        prefix += ["setpriv", "--pdeathsig", "KILL", "--"]
    if network:
        mounts = ["--target", "1", "--mount"] if INSIDE in os.environ else []
        prefix += ["nsenter", *mounts, f"--net={network}", "--"]
    return prefix


def without_proxies() -> dict[str, str]:
    """Our environment without HTTP proxies: a cluster talks to itself directly."""
    kept = {k: v for k, v in os.environ.items() if k.lower() not in {"http_proxy", "https_proxy", "all_proxy"}}
    return kept | {"NO_PROXY": "*", "no_proxy": "*"}


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, indented, for an error message."""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return f"({log} does not exist)"
    return "\n".join([f"Last lines of {log}:", *(f"  {line}" for line in text)])


def wait_until(
    check: Callable[[], bool], *, seconds: float, processes: Sequence[tuple[Process, Path]], what: str
) -> None:
    """Poll `check` every 50 ms; fail with the log's end when a process dies first or the time is over."""
    deadline = time.monotonic() + seconds
    while not check():
        for process, log in processes:
            if not process.alive:
                raise ProcessError(f"{process.name} ended while waiting for {what}.\n{tail(log)}")
        if time.monotonic() > deadline:
            ends = "\n".join(tail(log) for _, log in processes)
            raise ProcessError(f"{what} did not come true within {seconds:.0f} s.\n{ends}")
        time.sleep(0.05)


class Ledger:
    """The processes of one cluster, on disk, so that another run of the harness can end them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Process]:
        """Processes in the order in which they were started."""
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return []
        records = map(json.loads, lines)
        return [Process(each["name"], each["pid"], each["started"], tuple(each["command"])) for each in records]

    def add(self, process: Process) -> None:
        """Append one line: a crash between two starts loses no earlier record."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(process)) + "\n")

    def newest(self) -> dict[str, Process]:
        """The last process of each name, dead or alive, in the order in which the names first appeared."""
        return {process.name: process for process in self.read()}
