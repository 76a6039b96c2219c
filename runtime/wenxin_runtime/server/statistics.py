"""What has been asked of the model since the start, in the categories of Triton's statistics extension.

Every request that generates counts, by whatever protocol it came.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from wenxin_runtime.server.exchange import Exchange
from wenxin_runtime.timeline import Timeline

_GOOD_ENDINGS = ("stop", "length")


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds that it took altogether."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += max(0, int(seconds * 1e9))


class Statistics:
    """Counts and durations.

    A success is a request that got its whole answer; one whose client left is neither that nor a failure. Its duration
    is split: queue is the wait for a slot, compute_infer the model's work, compute_input what came before the queue
    (checking, tokenising, the look into the answer cache), and compute_output the rest.

    Attributes:
        last_inference: When the last request began, in milliseconds of Unix time; 0 without one.
    """

    def __init__(self) -> None:
        self.last_inference = 0
        self.success, self.fail = Duration(), Duration()
        self.queue, self.compute_input, self.compute_infer, self.compute_output = (Duration() for _ in range(4))
        self.cache_hit, self.cache_miss = Duration(), Duration()
        self.executions = 0

    def record(self, exchange: Exchange) -> None:
        """Take note of an exchange that is over; of one whose request made no sense there is nothing to note."""
        if exchange.plan is None:
            return
        seconds = time.monotonic() - exchange.begun
        self.last_inference = exchange.begun_ns // 1_000_000
        if exchange.error is not None or any(timeline.ending == "error" for timeline in exchange.timelines):
            self.fail.add(seconds)
        elif exchange.cache == "hit":
            self.success.add(seconds)
            self.cache_hit.add(seconds)
        elif exchange.timelines and all(timeline.ending in _GOOD_ENDINGS for timeline in exchange.timelines):
            self.success.add(seconds)
            if exchange.cache == "miss":
                self.cache_miss.add(seconds)
            if exchange.cache != "shared":
                self._split(exchange, exchange.timelines, seconds)

    def _split(self, exchange: Exchange, timelines: Sequence[Timeline], seconds: float) -> None:
        self.executions += 1
        before = min(timeline.accepted for timeline in timelines) - exchange.begun
        queue = max(timeline.queue_seconds or 0.0 for timeline in timelines)
        compute = max((timeline.prefill_seconds or 0.0) + (timeline.decode_seconds or 0.0) for timeline in timelines)
        self.compute_input.add(before)
        self.queue.add(queue)
        self.compute_infer.add(compute)
        self.compute_output.add(seconds - before - queue - compute)
