"""Starting the ranks of one node, and ending together: a group that has lost a rank cannot go on."""

import contextlib
import datetime as dt
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
import zmq
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from wenxin_runtime import config as runtime_config
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.parallel.leader import Followers
from wenxin_runtime.parallel.ranks import Alone, Group, Ranks

_STARTING = dt.timedelta(minutes=5)
_COLLECTIVE = dt.timedelta(minutes=10)
_END_WITHIN_SECONDS = 5.0
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Team:
    """The ranks that serve one model together, as the leader sees them; `followers` is None where it is alone."""

    ranks: Ranks
    followers: Followers | None = None


def join(config: RuntimeConfig, rank: int, store_port: int, store: Store | None = None) -> Ranks:
    """Take part in the group as `rank`; waits until all have come.

    Args:
        config: The leader's.
        rank: This process's number.
        store_port: Where the leader's store listens, on loopback.
        store: The store itself, on the leader.
    """
    size = config.tensor_parallel_size
    store = store or TCPStore(_LOOPBACK, store_port, size, is_master=False, timeout=_STARTING)
    cuda = config.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_COLLECTIVE)
    group = dist.group.WORLD
    assert group is not None  # noqa: S101 - init_process_group has made it
    return Group(group, device)


@contextlib.contextmanager
def assembled(config: RuntimeConfig, on_loss: Callable[[int, int], None]) -> Iterator[Team]:
    """Start the other ranks and join them; on leaving, end them.

    Args:
        config: Says how many there are.
        on_loss: Called from a thread with rank and exit status of a follower that has ended too early.
    """
    size = config.tensor_parallel_size
    if size == 1:
        yield Team(Alone())
        return
    store = TCPStore(_LOOPBACK, 0, size, is_master=True, wait_for_workers=False, timeout=_STARTING)
    with tempfile.TemporaryDirectory(prefix="wenxin-ranks-") as directory, zmq.Context() as context:
        addresses = {rank: f"ipc://{directory}/{rank}" for rank in range(1, size)}
        sockets = [_bound(context, address) for address in addresses.values()]
        processes = {rank: _spawn(config, rank, store.port, address) for rank, address in addresses.items()}
        leaving = threading.Event()
        watching = threading.Thread(target=_watch, args=(processes, leaving, on_loss), daemon=True)
        watching.start()
        followers = Followers([socket.send for socket in sockets])
        try:
            yield Team(join(config, 0, store.port, store), followers)
        finally:
            leaving.set()
            followers.stop()
            _end(processes.values())
            watching.join()
            for socket in sockets:
                socket.close(linger=0)
            if dist.is_initialized():
                dist.destroy_process_group()


def _bound(context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(0)
    socket.bind(address)
    return socket


def _spawn(config: RuntimeConfig, rank: int, store_port: int, orders: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "wenxin_runtime.parallel.follower", "--rank", str(rank)]
    command += ["--store-port", str(store_port), "--orders", orders, "--config", runtime_config.to_json(config)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - our own module


def _watch(
    processes: "dict[int, subprocess.Popen[bytes]]", leaving: threading.Event, on_loss: Callable[[int, int], None]
) -> None:
    while not leaving.wait(0.2):
        for rank, process in processes.items():
            status = process.poll()
            if status is not None and not leaving.is_set():
                on_loss(rank, status)
                return


def _end(processes: "Iterable[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        try:
            process.wait(_END_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
