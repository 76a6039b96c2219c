"""A following rank: a process that does with its part of the model what the leader orders, until told to stop.

    python -m wenxin_runtime.parallel.follower --rank 1 --leader 127.0.0.1:29500 --config '{...}'

It ends with the process that has started it, and with the leader: see `pulse`.
"""

import argparse
import contextlib
import ctypes
import logging
import os
import signal
from collections.abc import Iterator, Sequence

import msgspec
import torch
import zmq

from wenxin_runtime import config as runtime_config
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.loaded import Loaded, check, load
from wenxin_runtime.errors import GroupMismatch, RankLost, RuntimeFailure
from wenxin_runtime.parallel import interface, orders
from wenxin_runtime.parallel.identity import hello_of, troubled
from wenxin_runtime.parallel.leader import packed_size, unpack
from wenxin_runtime.parallel.orders import Allocate, Budget, Forward, Measure, Order, Prepare, Score, Stop, Switch
from wenxin_runtime.parallel.pulse import FollowerPulse
from wenxin_runtime.parallel.roll_call import report
from wenxin_runtime.parallel.team import found_store, join
from wenxin_runtime.parallel.wire import Farewell, Hello, Pulse, Welcome
from wenxin_runtime.telemetry import set_up_logging
from wenxin_runtime.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_TOLD_WITHIN_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Follower:
    """One rank's model and KV cache."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._model, self._kv_cache = loaded.with_cache(0, replays=None)

    @torch.inference_mode()
    def follow(self, order: Order) -> None:
        """Carry out one order; collectives inside meet those of the other ranks."""
        loaded, ranks = self._loaded, self._loaded.mesh.world
        match order:
            case Budget():
                ranks.least(loaded.cache_budget(order.step_bytes))
            case Allocate():
                del self._model, self._kv_cache  # the old ones go before the new ones come
                self._model, self._kv_cache = loaded.with_cache(order.blocks, replays=order.replays)
            case Forward():
                packed = ranks.spread_(torch.empty(packed_size(order), dtype=torch.int64, device=loaded.device))
                token_ids, positions, step = unpack(packed, order)
                self._model(token_ids, positions, self._kv_cache, step)
            case Score():
                hidden = torch.empty(order.rows, loaded.hidden_size, dtype=loaded.dtype, device=loaded.device)
                self._model.logits(ranks.spread_(hidden))
            case Measure() | Prepare() | Switch() if loaded.balance:
                loaded.balance.follow(order)


def main(argv: Sequence[str] | None = None) -> int:
    """Follow until told to stop. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m wenxin_runtime.parallel.follower", description=__doc__)
    parser.add_argument("--rank", type=int, required=True, help="this process's number, from 1")
    parser.add_argument("--leader", required=True, help="HOST:PORT of the roll call")
    parser.add_argument("--config", required=True, help="RuntimeConfig of this machine as JSON")
    options = parser.parse_args(argv)
    config = runtime_config.from_json(options.config)
    reports = Reports()
    set_up_logging(config.log_level)
    _die_with_parent()
    try:
        _take_part(config, options.rank, options.leader, reports)
    except RuntimeFailure as failure:
        logger.error("rank %d: %s", options.rank, failure)  # noqa: TRY400 - the message is for a user
        reports.tell(Farewell(failure.reason, str(failure), failure.exit_code))
        return failure.exit_code
    return 0


class Reports:
    """What this process tells the one that has started it: a JSON line for each event on what was its output.

    Whatever else writes to the output, as NCCL does, goes to the log.
    """

    def __init__(self) -> None:
        self._output = os.dup(1)
        os.set_blocking(self._output, False)
        os.dup2(2, 1)

    def tell(self, event: Welcome | Pulse | Farewell) -> None:
        """Report, unless nobody reads."""
        with contextlib.suppress(OSError):
            os.write(self._output, msgspec.json.encode(event) + b"\n")

    def end(self, farewell: Farewell) -> None:
        """Report and end the process at once, from any thread: the main one may be stuck."""
        if farewell.message:
            logger.error("%s", farewell.message)
        self.tell(farewell)
        os._exit(farewell.exit_code)


def _take_part(config: RuntimeConfig, rank: int, leader: str, reports: Reports) -> None:
    """Report to the leader, load, and follow.

    Raises:
        RuntimeFailure: we cannot take part, or not any more; the leader knows.
    """
    hello, checkpoint = _introduction(config, rank)
    host, _, port = leader.rpartition(":")
    line, welcome = report((host, int(port)), hello)
    if checkpoint is None:
        raise GroupMismatch(hello.trouble)  # from a leader that does not mind
    interface.use(welcome.interface or interface.interface_of(line.own_address))
    reports.tell(welcome)
    pulse = FollowerPulse(line, welcome.pulse_seconds, reports.tell, reports.end)
    signal.signal(signal.SIGTERM, lambda _number, _frame: pulse.ask_to_leave())
    try:
        mesh = join(config, rank, found_store(config, welcome))
        follower = Follower(load(config, checkpoint, mesh, pulse.loading))
        pulse.loaded()
        for order in _orders(welcome.orders):
            follower.follow(order)
            pulse.carried_out()
    except Exception as error:
        # When another rank is lost, a sum fails here: the leader, which knows which one, ends us meanwhile.
        pulse.over.wait(_TOLD_WITHIN_SECONDS if isinstance(error, RuntimeError) else 0)
        if not isinstance(error, RuntimeFailure):
            logger.exception("rank %d cannot go on", rank)
        lost = error if isinstance(error, RuntimeFailure) else RankLost(f"rank {rank} failed: {error}")
        pulse.leave(Farewell(lost.reason, str(lost), lost.exit_code))
        raise lost from error


def _introduction(config: RuntimeConfig, rank: int) -> tuple[Hello, Checkpoint | None]:
    """Find out what we are; without a checkpoint where we cannot take part."""
    try:
        checkpoint = check(config)
        return hello_of(config, rank, checkpoint), checkpoint
    except RuntimeFailure as failure:
        return troubled(config, rank, failure), None


def _die_with_parent() -> None:
    """Ask the kernel to end us with the leader: a collective that nobody answers is deaf to everything else."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _orders(address: str) -> Iterator[Order]:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.set_hwm(0)
        socket.ipv6 = "[" in address
        socket.connect(address)
        while not isinstance(order := orders.decode(socket.recv()), Stop):
            yield order


if __name__ == "__main__":
    raise SystemExit(main())
