"""The processes of one machine's ranks. No torch: also the process that starts them on a further machine uses this."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

from wenxin_runtime import config as runtime_config
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import RankLost

_MODULE = "wenxin_runtime.parallel.follower"
_NOTICED_WITHIN_SECONDS = 2.0
_END_WITHIN_SECONDS = 5.0


def command(config: RuntimeConfig, rank: int, leader: str) -> list[str]:
    """Return what starts a following rank.

    Args:
        config: Its machine's flags.
        rank: World rank.
        leader: HOST:PORT of the roll call.
    """
    flags = ["--rank", str(rank), "--leader", leader, "--config", runtime_config.to_json(config)]
    return [sys.executable, "-m", _MODULE, *flags]


def ranks_of(config: RuntimeConfig) -> range:
    """List the world ranks of this machine."""
    first = config.node_rank * config.ranks_of_node
    return range(first, first + config.ranks_of_node)


def name_of(config: RuntimeConfig, rank: int) -> str:
    """Name a rank, with its machine where there are several."""
    return f"rank {rank} on node {rank // config.ranks_of_node}" if config.nnodes > 1 else f"rank {rank}"


def names_of(config: RuntimeConfig, ranks: Iterable[int]) -> str:
    """Name several."""
    return ", ".join(name_of(config, rank) for rank in ranks)


def how(status: int) -> str:
    """Say how a rank's process ended, by its exit status; goes on after the rank's name."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name} (SIGKILL without a command is a lack of memory)"
    return f"ended with status {status}, its reason stands above in the log"


class Children:
    """The leader's: the other ranks of its machine. Made by `started`."""

    def __init__(self, config: RuntimeConfig, leader: str) -> None:
        self._config = config
        self._processes = {rank: _spawn(config, rank, leader) for rank in ranks_of(config) if rank}

    def check(self) -> None:
        """Notice that one has ended.

        Raises:
            RankLost: one has.
        """
        for rank, process in self._processes.items():
            status = process.poll()
            if status is not None:
                raise RankLost(f"{name_of(self._config, rank)} {how(status)}; the group cannot go on without it")

    def loss(self, rank: int, what: str) -> RankLost:
        """Describe the loss of any rank, of which `what` is known; a process of ours is asked for its status."""
        process = self._processes.get(rank)
        if process is None:
            what += f" (more in the log of node {rank // self._config.ranks_of_node})"
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_NOTICED_WITHIN_SECONDS)
                what = how(status) if status < 0 else f"{what} (more above in the log)"
        return RankLost(f"{name_of(self._config, rank)} {what}; the group cannot go on without it")

    def end(self) -> None:
        """Wait until all have ended, for a moment, and make the others end."""
        for process in self._processes.values():
            try:
                process.wait(_END_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def started(config: RuntimeConfig, leader: str) -> Iterator[Children]:
    """Start them; on leaving, end them. See `command` for the arguments."""
    children = Children(config, leader)
    try:
        yield children
    finally:
        children.end()


def _spawn(config: RuntimeConfig, rank: int, leader: str) -> "subprocess.Popen[bytes]":
    # What it reports on its output goes to the leader another way.
    argv = command(config, rank, leader)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603 - our own module
