"""Keys that want a pass: deduplicated, one worker per key at a time, delayed, backed off with jitter.

Knows nothing of Kubernetes. Invariants (held by tests/wenxin_operator/queue):

- a key is with at most one worker;
- a key added while it is with a worker is handed out again afterwards, so no change goes unseen;
- a key waits at most once, however often it is added; a pass drops the delayed visit that it made unnecessary.
"""

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

from wenxin_operator.errors import OperatorError

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
Chance = Callable[[], float]
Clock = Callable[[], float]


class QueueClosed(Exception):
    """No more keys are handed out."""


class WorkQueue(Generic[K]):
    """The queue.

    Args:
        initial: Seconds before the first retry of a key; each further failure doubles it.
        maximum: Longest backoff in seconds.
        clock: Monotonic seconds.
        chance: A number in [0, 1) for the jitter, which takes up to half of a backoff away.
    """

    def __init__(
        self, *, initial: float, maximum: float, clock: Clock = time.monotonic, chance: Chance = random.random
    ) -> None:
        self._initial, self._maximum, self._clock, self._chance = initial, maximum, clock, chance
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()  # exactly the keys of _ready
        self._running: set[K] = set()
        self._again: set[K] = set()  # added while with a worker
        self._due: dict[K, float] = {}  # the earliest delayed visit of each key
        self._heap: list[tuple[float, int, K]] = []  # may hold stale entries; _due decides
        self._sequence = 0  # keeps the heap from comparing keys
        self._failures: dict[K, int] = {}
        self._wakeup = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Keys that want a pass now."""
        self._release_due()
        return len(self._ready) + len(self._again)

    @property
    def running(self) -> int:
        """Keys that are with a worker."""
        return len(self._running)

    def add(self, key: K) -> None:
        """Ask for a pass now."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
        self._wakeup.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a pass in so many seconds, unless one comes sooner."""
        due = self._clock() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._sequence += 1
            heapq.heappush(self._heap, (due, self._sequence, key))
            self._wakeup.set()

    def retry(self, key: K) -> float:
        """Ask for a pass after the key's backoff, which is returned in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        backoff = min(self._maximum, self._initial * 2.0 ** min(failures - 1, 32))
        delay = backoff * (1 - self._chance() / 2)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key is well: its next failure is its first."""
        self._failures.pop(key, None)

    def take(self) -> K | None:
        """The next key, now with the caller until `done`; None when nothing wants a pass."""
        self._release_due()
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._running.add(key)
        self._due.pop(key, None)
        return key

    def done(self, key: K) -> None:
        """The caller has finished with the key."""
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        self._wakeup.set()

    async def get(self) -> K:
        """Wait for the next key.

        Raises:
            QueueClosed: after `close`, whatever is left.
        """
        while not self._closed:
            key = self.take()
            if key is not None:
                return key
            await self._change()
        raise QueueClosed

    def close(self) -> None:
        """Hand out nothing more; what is with workers may finish."""
        self._closed = True
        self._wakeup.set()

    async def _change(self) -> None:
        """Wait until something was added or the next delay is over. All waiters look again: they are few."""
        self._wakeup.clear()
        delay = max(0.0, self._heap[0][0] - self._clock()) if self._heap else None
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wakeup.wait()

    def _release_due(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)


async def work(queue: WorkQueue[K], visit: Callable[[K], Awaitable[float | None]]) -> None:
    """Be one worker until the queue closes: no visit's failure ends it.

    Args:
        queue: Where keys come from.
        visit: Makes one pass; returns the seconds after which to come again anyway, or None. Raising means failure.
    """
    while True:
        try:
            key = await queue.get()
        except QueueClosed:
            return
        try:
            again = await visit(key)
        except Exception as error:
            delay = queue.retry(key)
            logger.warning(
                "pass failed, next try in %.1f s: %s",
                delay,
                error,
                exc_info=None if isinstance(error, OperatorError) else error,  # a defect of ours: say where
            )
        else:
            queue.forget(key)
            if again is not None:
                queue.add_after(key, again)
        finally:
            queue.done(key)
