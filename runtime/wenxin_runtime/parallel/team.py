"""The ranks that serve one model together: found, joined, and ended together, for a group without one cannot go on."""

import contextlib
import datetime as dt
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
import zmq
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import RankLost, RuntimeFailure
from wenxin_runtime.parallel import interface, pulse, roll_call
from wenxin_runtime.parallel.children import started
from wenxin_runtime.parallel.identity import hello_of
from wenxin_runtime.parallel.leader import Followers
from wenxin_runtime.parallel.orders import Stop, encode
from wenxin_runtime.parallel.peer_memory import over_peer_memory
from wenxin_runtime.parallel.pulse import LeaderPulse
from wenxin_runtime.parallel.ranks import ALONE, Group, Mesh, Ranks
from wenxin_runtime.parallel.roll_call import LOOPBACK, RollCall
from wenxin_runtime.parallel.shared_memory import over_shared_memory
from wenxin_runtime.parallel.wire import Farewell, Gone, Line, Pulse, Welcome
from wenxin_runtime.weights.checkpoint import Checkpoint, open_checkpoint
from wenxin_runtime.weights.loading import Progress

_STARTING = dt.timedelta(minutes=5)
_COLLECTIVE = dt.timedelta(minutes=10)
_NOTICED_WITHIN_SECONDS = 2.0
_LOOK_EVERY_SECONDS = 0.1
_LINGER_MS = 1000

_Beat = Callable[[Mapping[int, Pulse]], None]


@dataclass(frozen=True, slots=True)
class Team:
    """The ranks as the leader sees them; `followers` and `pulse` are None where it is alone."""

    mesh: Mesh
    followers: Followers | None = None
    pulse: LeaderPulse | None = None

    def summed(self, progress: Progress | None) -> Progress | None:
        """Make of a report of the leader's loading one of all ranks' loading."""
        if self.pulse is None or progress is None:
            return progress
        return functools.partial(_report_sum, self.pulse, progress)

    def wait_until_loaded(self, progress: Progress | None, total: int) -> None:
        """Wait until the other ranks have loaded their weights too, and report.

        Args:
            progress: Where to.
            total: Bytes that the leader had to load.

        Raises:
            RankLost: one of them has ended.
        """
        summed = self.summed(progress)
        while self.pulse and not all(other.loaded for other in self.pulse.last):
            if summed:
                summed(total, total)
            if lost := self.pulse.failure(_LOOK_EVERY_SECONDS):
                raise lost


def _report_sum(others: LeaderPulse, progress: Progress, done: int, total: int) -> None:
    last = others.last
    progress(done + sum(other.done for other in last), total + sum(other.total or total for other in last))


def join(config: RuntimeConfig, rank: int, store: Store) -> Mesh:
    """Take part as world rank `rank`; waits until all have come. See `found_store` and `_opened_store`."""
    size = config.world_size
    cuda = config.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", rank % config.ranks_of_node) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_COLLECTIVE)
    everyone = dist.group.WORLD
    assert everyone is not None  # noqa: S101 - init_process_group has made it
    return _mesh(config, everyone, device)


def found_store(config: RuntimeConfig, welcome: Welcome) -> Store:
    """Find the leader's store, where the backends tell each other their addresses."""
    return TCPStore(welcome.host, welcome.store_port, config.world_size, is_master=False, timeout=_STARTING)


def _mesh(config: RuntimeConfig, everyone: dist.ProcessGroup, device: torch.device) -> Mesh:
    world, tensor, groups = _ranks(config, everyone, device), config.tensor_parallel_size, config.data_parallel_size
    if groups == 1:
        return Mesh(world, world)
    # Every rank takes part in making every group, also those that it is not in.
    made = [dist.new_group(list(range(group * tensor, (group + 1) * tensor))) for group in range(groups)]
    mine = world.rank // tensor
    group = made[mine]
    assert isinstance(group, dist.ProcessGroup)  # noqa: S101 - only those that we are not in are not
    return Mesh(world, _ranks(config, group, device), mine, groups)


def _ranks(config: RuntimeConfig, group: dist.ProcessGroup, device: torch.device) -> Ranks:
    ranks = Group(group, device)
    if device.type == "cpu":
        return over_shared_memory(ranks, _COLLECTIVE.total_seconds())
    return over_peer_memory(ranks, group, _cards(config, group)) if config.enable_one_shot_all_reduce else ranks


def _cards(config: RuntimeConfig, group: dist.ProcessGroup) -> list[int]:
    """List the GPUs of a group's ranks; none where they are on several nodes."""
    members = dist.get_process_group_ranks(group)
    nodes = {rank // config.ranks_of_node for rank in members}
    return [rank % config.ranks_of_node for rank in members] if len(nodes) == 1 else []


@contextlib.contextmanager
def assembled(
    config: RuntimeConfig,
    on_loss: Callable[[RankLost], None],
    checkpoint: Checkpoint | None = None,
    *,
    still_wanted: Callable[[], None] = lambda: None,
    on_beat: _Beat = lambda _: None,
) -> Iterator[Team]:
    """Start the other ranks of this machine, wait for those of the others, and join them; on leaving, end them all.

    Args:
        config: Says how many there are.
        on_loss: Called from a thread when a rank has ended too early or hangs: a sum that waits for it may never
            return.
        checkpoint: The leader's, if it is open already.
        still_wanted: Called several times a second while ranks are missing; raises to give up.
        on_beat: Called from a thread every second with each rank's last pulse.

    Raises:
        ConfigError: --master-port is taken.
        GroupMismatch: a rank has another version, checkpoint, flags or device.
        RankLost: a rank does not come, or a sum has failed because one has ended.
    """
    if config.world_size == 1:
        yield Team(ALONE)
        return
    with (
        _groups_left_last(),
        roll_call.listen(config) as listener,
        started(config, f"{LOOPBACK}:{listener.getsockname()[1]}") as children,
    ):

        def look() -> None:
            still_wanted()
            children.check()

        own = hello_of(config, 0, checkpoint or open_checkpoint(config.model_dir))
        lines = RollCall(config, own, listener).complete(look)
        interface.use(leading := interface.interface_of(_address_of(lines)))
        store = _opened_store(config)
        with _welcomed(config, lines, store.port, leading) as followers:
            beating = LeaderPulse(lines, listener, children.loss, on_loss, on_beat, pulse.EVERY_SECONDS)
            with _ending(beating):
                yield Team(join(config, 0, store), followers, beating)


@contextlib.contextmanager
def _groups_left_last() -> Iterator[None]:
    """On leaving, leave torch's groups: when the other ranks have ended, for NCCL may wait for who is deaf to it."""
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _address_of(lines: Mapping[int, Line]) -> str:
    """Find the leader's address as the ranks of other machines reach it."""
    return next((line.own_address for line in lines.values() if line.own_address != LOOPBACK), LOOPBACK)


def _opened_store(config: RuntimeConfig) -> TCPStore:
    listener = roll_call.open_port(0, loopback=roll_call.stays_here(config))
    port, size = listener.getsockname()[1], config.world_size
    return TCPStore(
        LOOPBACK, port, size, is_master=True, wait_for_workers=False, timeout=_STARTING,
        master_listen_fd=listener.detach(),
    )  # fmt: skip


@contextlib.contextmanager
def _welcomed(config: RuntimeConfig, lines: Mapping[int, Line], store_port: int, leading: str) -> Iterator[Followers]:
    """Open the way of the orders and tell each rank where to go on; on leaving, tell all to stop."""
    with tempfile.TemporaryDirectory(prefix="wenxin-ranks-") as directory, zmq.Context() as context:
        sockets = []
        for rank, line in lines.items():
            socket = context.socket(zmq.PUSH)
            sockets.append(socket)
            socket.set_hwm(0)
            socket.linger = _LINGER_MS
            near = rank < config.ranks_of_node
            welcome = Welcome(
                host=LOOPBACK if near else line.own_address,
                store_port=store_port,
                orders=_bind(socket, f"{directory}/{rank}" if near else "", line.own_address),
                interface=leading if near else "",
                pulse_seconds=pulse.EVERY_SECONDS,
            )
            with contextlib.suppress(Gone):  # the pulse will notice
                line.send(welcome)
        try:
            yield Followers([socket.send for socket in sockets])
        finally:
            for socket in sockets:
                with contextlib.suppress(zmq.Again):  # of a follower that is gone
                    socket.send(encode(Stop()), zmq.NOBLOCK)
                socket.close()


def _bind(socket: "zmq.Socket[bytes]", path: str, address: str) -> str:
    """Bind a socket to a path, or to a free port of the address that the rank has called; return where."""
    if path:
        socket.bind(f"ipc://{path}")
        return f"ipc://{path}"
    host = f"[{address}]" if ":" in address else address
    socket.ipv6 = ":" in address
    socket.bind(f"tcp://{host}:*")
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


@contextlib.contextmanager
def _ending(beating: LeaderPulse) -> Iterator[None]:
    """Tell the others how the leader ends, and find out which rank is lost when a sum fails."""
    farewell = Farewell()
    try:
        yield
    except RuntimeError as error:  # gloo and shared memory notice first, NCCL never
        lost = beating.failure(_NOTICED_WITHIN_SECONDS)
        farewell = _farewell(lost or error)
        raise lost or error from error
    except Exception as error:
        farewell = _farewell(error)
        raise
    finally:
        beating.close(farewell)


def _farewell(error: Exception) -> Farewell:
    if isinstance(error, RankLost):
        return Farewell(error.reason, str(error), error.exit_code)
    if isinstance(error, RuntimeFailure):
        return Farewell(error.reason, f"the leader gave up: {error}", error.exit_code)
    return Farewell(RankLost.reason, f"the leader failed: {type(error).__name__} {error}", RankLost.exit_code)
