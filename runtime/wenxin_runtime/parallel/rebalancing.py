"""When to measure what the experts are asked, and when to move copies: the leading rank decides, between two steps.

Nothing waits for a file. A layer's copies are read while steps go on, by every rank for itself; once all have theirs,
the layer changes between two steps. So a pause is never longer than writing one rank's copies of one layer.
"""

import logging
from collections import deque
from collections.abc import Callable

from wenxin_runtime.ipc import ExpertStats
from wenxin_runtime.parallel.balance import Balance
from wenxin_runtime.parallel.orders import Measure, Order, Prepare, Switch
from wenxin_runtime.parallel.placement import NOBODY, Placement, imbalance, place

logger = logging.getLogger(__name__)

EVERY_STEPS = 512
"""Steps between two measurements: each makes the host wait for the device once."""
LEAST_CHOICES = 32
"""Of an average expert, before its layer is judged: fewer are chance."""
_ASK_EVERY_STEPS = 4  # whether all have read their part: a small sum of all ranks
_LEAST_GAIN = 0.05  # of the busiest rank's load; for less nothing is read


class Rebalancing:
    """Follows the load of all experts, and moves copies to where they help, one layer after the other."""

    def __init__(self, balance: Balance, tell: Callable[[Order], None]) -> None:
        """Begin to count steps.

        Args:
            balance: The leading rank's.
            tell: Sends an order to the other ranks.
        """
        self._balance = balance
        self._tell = tell
        self._steps = 0
        # What each expert was asked; older measurements count for half as much as the next.
        self._loads = {layer: [0] * balance.slots.experts for layer in balance.layers}
        self._unjudged: deque[int] = deque()
        self._moving: tuple[int, Placement] | None = None
        self._imbalance = 0.0
        self._rebalances = 0
        self._by_rank = [0] * balance.slots.ranks

    @property
    def stats(self) -> ExpertStats:
        """What has been found and done."""
        return ExpertStats(
            imbalance=self._imbalance, rebalances_total=self._rebalances, rows_by_rank=tuple(self._by_rank)
        )

    def forget(self) -> None:
        """Leave out of account what was asked so far: prompts to warm up with are all the same token."""
        self._tell(Measure())
        self._balance.measure()
        self._steps = 0

    def before_step(self) -> None:
        """Do what is due, if anything is; a step of all ranks follows."""
        self._steps += 1
        if self._steps % EVERY_STEPS == 0:
            self._measure()
        elif self._moving:
            self._finish(*self._moving)
        elif self._unjudged:
            self._judge(self._unjudged.popleft())

    def _measure(self) -> None:
        self._tell(Measure())
        slots, measured = self._balance.slots, []
        for layer, asked in zip(self._balance.layers, self._balance.measure().tolist(), strict=True):
            placement = self._balance.placement(layer)
            by_expert = zip(self._loads[layer], placement.expert_loads(asked), strict=True)
            self._loads[layer] = [old // 2 + new for old, new in by_expert]
            by_rank = [sum(asked[i : i + slots.per_rank]) for i in range(0, slots.total, slots.per_rank)]
            self._by_rank = [total + here for total, here in zip(self._by_rank, by_rank, strict=True)]
            measured.append(imbalance(by_rank))
        self._imbalance = sum(measured) / len(measured)
        if slots.copies and not self._unjudged:
            self._unjudged.extend(self._balance.layers)

    def _judge(self, layer: int) -> None:
        """Let the ranks begin to read, if other copies than a layer has now would help it."""
        loads, now = self._loads[layer], self._balance.placement(layer)
        if sum(loads) < LEAST_CHOICES * len(loads):
            return
        better = place(loads, now)
        if max(better.expected_loads(loads)) > (1 - _LEAST_GAIN) * max(now.expected_loads(loads)):
            return
        self._moving = layer, better
        self._tell(Prepare(layer, better.copies))
        self._balance.prepare(layer, better.copies)

    def _finish(self, layer: int, placement: Placement) -> None:
        """Let the ranks change a layer, if all have read their part."""
        if self._steps % _ASK_EVERY_STEPS or not self._balance.prepared:
            return
        self._tell(Switch())
        done = self._balance.switch()
        if done is None:
            return
        self._moving = None
        if done:
            self._rebalances += 1
            copied = sorted({expert for copies in placement.copies for expert in copies} - {NOBODY})
            logger.info("layer %d: the experts %s have copies", layer, copied)
        else:
            self._unjudged.clear()  # and try again after the next measurement
