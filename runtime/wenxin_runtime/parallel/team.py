"""Starting the ranks of one node, and ending together: a group that has lost a rank cannot go on."""

import contextlib
import datetime as dt
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
import zmq
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from wenxin_runtime import config as runtime_config
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import RankLost
from wenxin_runtime.parallel.leader import Followers
from wenxin_runtime.parallel.orders import Stop, encode
from wenxin_runtime.parallel.ranks import ALONE, Group, Mesh, Ranks
from wenxin_runtime.parallel.shared_memory import over_shared_memory

_STARTING = dt.timedelta(minutes=5)
_COLLECTIVE = dt.timedelta(minutes=10)
_END_WITHIN_SECONDS = 5.0
_NOTICED_WITHIN_SECONDS = 2.0
_LOOK_EVERY_SECONDS = 0.5
_POLL_SECONDS = 0.05
_LINGER_MS = 1000
_LOOPBACK = "127.0.0.1"

_Processes = dict[int, "subprocess.Popen[bytes]"]


@dataclass(frozen=True, slots=True)
class Team:
    """The ranks that serve one model together, as the leader sees them; `followers` is None where it is alone."""

    mesh: Mesh
    followers: Followers | None = None


def join(config: RuntimeConfig, rank: int, store_port: int, store: Store | None = None) -> Mesh:
    """Take part as world rank `rank`; waits until all have come.

    Args:
        config: The leader's.
        rank: This process's number.
        store_port: Where the leader's store listens, on loopback.
        store: The store itself, on the leader.
    """
    size = config.world_size
    store = store or TCPStore(_LOOPBACK, store_port, size, is_master=False, timeout=_STARTING)
    cuda = config.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", rank % config.ranks_of_node) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_COLLECTIVE)
    everyone = dist.group.WORLD
    assert everyone is not None  # noqa: S101 - init_process_group has made it
    return _mesh(config, everyone, device)


def _mesh(config: RuntimeConfig, everyone: dist.ProcessGroup, device: torch.device) -> Mesh:
    world, tensor, groups = _ranks(everyone, device), config.tensor_parallel_size, config.data_parallel_size
    if groups == 1:
        return Mesh(world, world)
    # Every rank takes part in making every group, also those that it is not in.
    made = [dist.new_group(list(range(group * tensor, (group + 1) * tensor))) for group in range(groups)]
    mine = world.rank // tensor
    group = made[mine]
    assert isinstance(group, dist.ProcessGroup)  # noqa: S101 - only those that we are not in are not
    return Mesh(world, _ranks(group, device), mine, groups)


def _ranks(group: dist.ProcessGroup, device: torch.device) -> Ranks:
    ranks = Group(group, device)
    return over_shared_memory(ranks, _COLLECTIVE.total_seconds()) if device.type == "cpu" else ranks


@contextlib.contextmanager
def assembled(config: RuntimeConfig, on_loss: Callable[[RankLost], None]) -> Iterator[Team]:
    """Start the other ranks and join them; on leaving, end them.

    Args:
        config: Says how many there are.
        on_loss: Called from a thread when a follower has ended too early: a sum that waits for it may never return.

    Raises:
        RankLost: a sum has failed because a follower has ended.
    """
    size = config.world_size
    if size == 1:
        yield Team(ALONE)
        return
    store = TCPStore(_LOOPBACK, 0, size, is_master=True, wait_for_workers=False, timeout=_STARTING)
    with tempfile.TemporaryDirectory(prefix="wenxin-ranks-") as directory, zmq.Context() as context:
        addresses = {rank: f"ipc://{directory}/{rank}" for rank in range(1, size)}
        sockets = [_bound(context, address) for address in addresses.values()]
        processes = {rank: _spawn(config, rank, store.port, address) for rank, address in addresses.items()}
        leaving = threading.Event()
        watching = threading.Thread(target=_watch, args=(processes, leaving, on_loss), daemon=True)
        watching.start()
        try:
            yield Team(join(config, 0, store.port, store), Followers([socket.send for socket in sockets]))
        except RuntimeError as error:  # gloo notices first, NCCL never
            leaving.set()
            raise _lost(processes, _NOTICED_WITHIN_SECONDS) or error from error
        finally:
            leaving.set()
            watching.join()
            _dismiss(sockets)
            _end(processes.values())
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


def _watch(processes: _Processes, leaving: threading.Event, on_loss: Callable[[RankLost], None]) -> None:
    while not leaving.is_set():
        lost = _lost(processes, _LOOK_EVERY_SECONDS)
        if lost and not leaving.is_set():
            on_loss(lost)


def _lost(processes: _Processes, within_seconds: float) -> RankLost | None:
    """Wait for the end of any follower."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        for rank, process in processes.items():
            status = process.poll()
            if status is not None:
                return RankLost(f"rank {rank} {_how(status)}; the group cannot go on without it")
        time.sleep(_POLL_SECONDS)
    return None


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name} (SIGKILL without a command is a lack of memory)"
    return f"ended with status {status}, its reason stands above in the log"


def _dismiss(sockets: "Iterable[zmq.Socket[bytes]]") -> None:
    for socket in sockets:
        with contextlib.suppress(zmq.Again):  # of a follower that is gone
            socket.send(encode(Stop()), zmq.NOBLOCK)
        socket.close(_LINGER_MS)


def _end(processes: "Iterable[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        try:
            process.wait(_END_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
