"""A following rank: a process that does with its part of the model what the leader orders, until told to stop.

    python -m wenxin_runtime.parallel.follower --rank 1 --store-port 40001 --orders ipc:///tmp/x/1 --config '{...}'

It ends with the leader: when its parent is another process, when the leader's end of a collective is gone.
"""

import argparse
import ctypes
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence

import torch
import zmq

from wenxin_runtime import config as runtime_config
from wenxin_runtime.engine.loaded import Loaded, load
from wenxin_runtime.errors import RuntimeFailure
from wenxin_runtime.parallel import orders
from wenxin_runtime.parallel.leader import packed_size, unpack
from wenxin_runtime.parallel.orders import Allocate, Budget, Forward, Order, Score, Stop
from wenxin_runtime.parallel.team import join
from wenxin_runtime.telemetry import set_up_logging
from wenxin_runtime.weights.checkpoint import open_checkpoint

logger = logging.getLogger(__name__)

_PARENT_CHECK_MS = 1000
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


def main(argv: Sequence[str] | None = None) -> int:
    """Follow until told to stop. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m wenxin_runtime.parallel.follower", description=__doc__)
    parser.add_argument("--rank", type=int, required=True, help="this process's number, from 1")
    parser.add_argument("--store-port", type=int, required=True, help="loopback port of the leader's store")
    parser.add_argument("--orders", required=True, help="ZeroMQ address that the leader pushes to")
    parser.add_argument("--config", required=True, help="RuntimeConfig as JSON")
    options = parser.parse_args(argv)
    config = runtime_config.from_json(options.config)
    set_up_logging(config.log_level)
    parent = os.getppid()
    _die_with_parent()
    try:
        mesh = join(config, options.rank, options.store_port)
        follower = Follower(load(config, open_checkpoint(config.model_dir), mesh))
        for order in _orders(options.orders, lambda: os.getppid() == parent):
            follower.follow(order)
    except RuntimeFailure as failure:
        logger.error("rank %d: %s", options.rank, failure)  # noqa: TRY400 - the message is for a user
        return failure.exit_code
    return 0


def _die_with_parent() -> None:
    """Ask the kernel to end us with the leader: a collective that nobody answers is deaf to everything else."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _orders(address: str, leader_lives: Callable[[], bool]) -> Iterator[Order]:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.set_hwm(0)
        socket.connect(address)
        while leader_lives():
            if socket.poll(_PARENT_CHECK_MS):
                order = orders.decode(socket.recv())
                if isinstance(order, Stop):
                    return
                yield order


if __name__ == "__main__":
    raise SystemExit(main())
