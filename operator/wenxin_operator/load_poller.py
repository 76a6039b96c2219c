"""Asks the pods that autoscalers scale how busy they are, round after round, and keeps what they said last.

A sample belongs to a pod's uid, knows its age, and is gone when the pod was asked and did not answer: missing, never
zero. Pods that are loading or on their way out are not asked at all, so an autoscaler takes them for missing, too.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from wenxin_operator import pods
from wenxin_operator.load import Load
from wenxin_operator.names import (
    COMPONENT_RUNTIME,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    POD,
    WENXIN_DEPLOYMENT,
    Raw,
)
from wenxin_operator.store import Store, labels_of

logger = logging.getLogger(__name__)

AT_ONCE = 32
"""Pods that are asked at the same time: a round of 5,000, of which 100 let their 2 s run out, still ends in time."""
STALE_ROUNDS = 3
"""A sample that was not renewed for so many rounds is as good as none: the poller itself is stuck."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a pod said.

    Attributes:
        load: Its words.
        at: When, in monotonic seconds.
    """

    load: Load
    at: float


class LoadPoller:
    """Asks ready pods that lead, of deployments with spec.autoscaling.

    Args:
        store: What is known of the cluster.
        ask: Asks one pod; None where it does not answer. Never raises.
        interval: Seconds between the beginnings of two rounds, shortened at random by up to a tenth.
        chance: A number in [0, 1).
        counted: Told of each pod that was asked whether it answered.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        ask: Callable[[Raw], Awaitable[Load | None]],
        *,
        interval: float,
        chance: Callable[[], float],
        counted: Callable[[bool], None] = lambda _answered: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._ask, self._interval = store, ask, interval
        self._chance, self._counted, self._clock = chance, counted, clock
        self._samples: dict[str, Sample] = {}  # by the pod's uid
        self.warm = asyncio.Event()

    def sample(self, pod: Raw) -> Sample | None:
        """What the pod said last; None where it is missing, or too long ago."""
        found = self._samples.get(pod["metadata"]["uid"])
        fresh = found is not None and self._clock() - found.at <= STALE_ROUNDS * self._interval
        return found if fresh else None

    def age(self, sample: Sample) -> float:
        """Seconds since it was taken."""
        return self._clock() - sample.at

    def __len__(self) -> int:
        """How many pods have a sample."""
        return len(self._samples)

    async def run(self) -> None:
        """Ask for ever. A round that goes wrong is logged; its samples grow stale."""
        while True:
            began = self._clock()
            try:
                await self.round()
            except Exception:
                logger.exception("pods could not be asked how busy they are")
            self.warm.set()
            rest = self._interval * (1 - self._chance() / 10) - (self._clock() - began)
            await asyncio.sleep(max(rest, self._interval / 10))

    async def round(self) -> None:
        """Ask each pod once, spread over half the interval; but for the first round, which others wait for."""
        targets = list(_scaled_pods(self._store))
        present = {pod["metadata"]["uid"] for pod in targets}
        self._samples = {uid: sample for uid, sample in self._samples.items() if uid in present}
        if not targets:
            return
        workers = min(AT_ONCE, len(targets))
        gap = self._interval / 2 / math.ceil(len(targets) / workers) if self.warm.is_set() else 0.0
        waiting = iter(targets)
        await asyncio.gather(*(self._work(waiting, gap) for _ in range(workers)))

    async def _work(self, waiting: Iterator[Raw], gap: float) -> None:
        for pod in waiting:
            await asyncio.sleep(gap * self._chance())
            load, uid = await self._ask(pod), pod["metadata"]["uid"]
            self._counted(load is not None)
            if load is None:
                self._samples.pop(uid, None)
            else:
                self._samples[uid] = Sample(load, self._clock())


def _scaled_pods(store: Store) -> Iterable[Raw]:
    for resource in store.every(WENXIN_DEPLOYMENT):
        if not (resource.get("spec") or {}).get("autoscaling"):
            continue
        metadata = resource["metadata"]
        for pod in store.children(POD, metadata["namespace"], LABEL_DEPLOYMENT, metadata["name"]):
            if labels_of(pod).get(LABEL_COMPONENT) == COMPONENT_RUNTIME and _answers(pod):
                yield pod


def _answers(pod: Raw) -> bool:
    seen = pods.see(pod)
    return seen.ready and seen.leads
