"""Replicas that load, queue, compute and drain, second by second, under an autoscaler; for bench.autoscale.

A replica computes up to `slots` requests at a time, each for as long as it takes; more wait in its queue, and one more
than fits there is refused, as the runtime does. Requests are spread by chance, as a Service spreads connections.
"""

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.hpa import SYNC_SECONDS, Autoscaler, Metric
from wenxin_operator.api.autoscaling import Autoscaling

SLOTS = 32
QUEUE = 100
REQUEST_SECONDS = 16.0
"""Mean of an exponential distribution: 400 tokens at 25 a second."""
SCHEDULE_SECONDS = 5.0
"""Pending: until it has a node and an image."""
POLL_SECONDS = 10.0
"""Age that samples may have."""


@dataclass
class Replica:
    """One replica.

    Attributes:
        runs_at: When it is no longer pending.
        ready_at: When it answers.
        ends: When its running requests end, a heap.
        waiting: When its waiting requests came.
        leaving: It takes no more, and goes when it is idle.
    """

    runs_at: float
    ready_at: float
    ends: list[float] = field(default_factory=list)
    waiting: deque[float] = field(default_factory=deque)
    leaving: bool = False


@dataclass
class Outcome:
    """What came of a trace."""

    waits: list[float] = field(default_factory=list)
    refused: int = 0
    replica_seconds: float = 0.0
    changes: int = 0
    most: int = 0
    first_ready: float | None = None


@dataclass
class Fleet:
    """One deployment under one autoscaler.

    Attributes:
        asked: What spec.autoscaling says.
        load_seconds: From a pod's start to ready.
        chance: Durations, and which replica gets a request.
    """

    asked: Autoscaling
    load_seconds: float
    chance: random.Random
    replicas: list[Replica] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    _measured: tuple[float, tuple[Metric, ...]] = (float("-inf"), ())

    def run(self, arrivals: Sequence[int]) -> Outcome:
        """Let an hour pass, one second after the other."""
        self.replicas = [Replica(0.0, 0.0) for _ in range(self.asked.min_replicas)]
        autoscaler = Autoscaler(self.asked)
        for second, coming in enumerate(arrivals):
            now = float(second)
            self._compute(now)
            self._admit(now, coming)
            if now % SYNC_SECONDS == 0:
                self._scale(now, autoscaler)
            self.outcome.replica_seconds += len(self.replicas)
            self.outcome.most = max(self.outcome.most, len(self.replicas))
        return self.outcome

    def _compute(self, now: float) -> None:
        for replica in self.replicas:
            while replica.ends and replica.ends[0] <= now:
                heapq.heappop(replica.ends)
            while replica.waiting and len(replica.ends) < SLOTS:
                self.outcome.waits.append(now - replica.waiting.popleft())
                heapq.heappush(replica.ends, now + self._duration())
        self.replicas = [each for each in self.replicas if not each.leaving or each.ends or each.waiting]

    def _admit(self, now: float, coming: int) -> None:
        ready = [each for each in self.replicas if each.ready_at <= now and not each.leaving]
        for _ in range(coming):
            replica = self.chance.choice(ready)
            if len(replica.ends) < SLOTS:
                self.outcome.waits.append(0.0)
                heapq.heappush(replica.ends, now + self._duration())
            elif len(replica.waiting) < QUEUE:
                replica.waiting.append(now)
            else:
                self.outcome.refused += 1

    def _scale(self, now: float, autoscaler: Autoscaler) -> None:
        staying = [each for each in self.replicas if not each.leaving]
        if now - self._measured[0] >= POLL_SECONDS:
            self._measured = now, self._metrics(now, staying)
        wanted = autoscaler.step(now, len(staying), self._measured[1])
        self.outcome.changes += wanted != len(staying)
        for _ in range(wanted - len(staying)):
            runs_at = now + SCHEDULE_SECONDS
            self.replicas.append(Replica(runs_at, runs_at + self.load_seconds))
        # Those that are not ready go first, then the idlest: that is what deletion costs say.
        order = sorted(staying, key=lambda each: (each.ready_at <= now, len(each.ends) + len(each.waiting)))
        for replica in order[: max(0, len(staying) - wanted)]:
            replica.leaving = True

    def _metrics(self, now: float, staying: Sequence[Replica]) -> tuple[Metric, ...]:
        ready = [each for each in staying if each.ready_at <= now]
        pending = sum(each.runs_at > now for each in staying)
        missing = len(staying) - len(ready) - pending
        targets = (self.asked.queue_depth * 1000, self.asked.running_percent * SLOTS * 10)
        values = (tuple(len(r.waiting) * 1000 for r in ready), tuple(len(r.ends) * 1000 for r in ready))
        return tuple(Metric(each, target, missing, pending) for each, target in zip(values, targets, strict=True))

    def _duration(self) -> float:
        return self.chance.expovariate(1 / REQUEST_SECONDS)
