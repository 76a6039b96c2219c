"""What the lease promises: one holder, no clock compared across machines, a quick handover after a clean stop."""

import asyncio
import datetime as dt
from typing import Any

import pytest

from wenxin_operator.errors import Conflict, LeaseLost, NotFound, Unreachable
from wenxin_operator.lease import Elector, Timing

FAST = Timing(duration=1.0, renew_deadline=0.3, retry_period=0.01)


class LeaseBox:
    """One lease as the API server keeps it: a write needs the version that was read last."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False
        self.mute = 0  # so many requests are never answered
        self.writes = 0

    async def read_lease(self, namespace: str, name: str) -> dict[str, Any]:
        await self._answer()
        if self.lease is None:
            raise NotFound(f"lease {namespace}/{name}")
        return self.lease

    async def create_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        await self._answer()
        if self.lease is not None:
            raise Conflict("it exists")
        return self._store(lease)

    async def replace_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        await self._answer()
        if self.lease is None:
            raise NotFound("gone")
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("it has changed")
        return self._store(lease)

    async def _answer(self) -> None:
        if self.mute:
            self.mute -= 1
            await asyncio.Event().wait()
        if self.down:
            raise Unreachable("connection refused")

    def _store(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.writes += 1
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self.version)}}
        return self.lease

    @property
    def holder(self) -> str:
        assert self.lease
        return str(self.lease["spec"]["holderIdentity"])


class Clock:
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def elector(box: LeaseBox, identity: str, *, timing: Timing = FAST, **clocks: Any) -> Elector:
    return Elector(box, namespace="here", name="it", identity=identity, timing=timing, **clocks)


async def within(seconds: float, condition: Any) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - watches a plain attribute
            await asyncio.sleep(0.002)


async def test_the_first_copy_creates_the_lease_and_leads() -> None:
    box = LeaseBox()
    first = elector(box, "a")
    await first.acquire()
    assert first.leading
    assert first.valid
    assert box.lease
    assert box.lease["spec"]["leaseTransitions"] == 0
    assert box.lease["spec"]["leaseDurationSeconds"] == 1


async def test_a_second_copy_waits_while_the_first_renews() -> None:
    box = LeaseBox()
    first, second = elector(box, "a"), elector(box, "b")
    await first.acquire()
    holding, waiting = asyncio.create_task(first.hold()), asyncio.create_task(second.acquire())
    await within(5, lambda: box.writes > 120)  # longer than one lease duration
    assert not second.leading
    assert box.holder == "a"
    for task in (holding, waiting):
        task.cancel()


async def test_a_released_lease_is_taken_at_once() -> None:
    box = LeaseBox()
    slow = Timing(duration=3600, renew_deadline=10, retry_period=0.01)
    first, second = elector(box, "a", timing=slow), elector(box, "b", timing=slow)
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.02)
    await first.release()
    async with asyncio.timeout(5):
        await waiting
    assert box.holder == "b"
    assert box.lease
    assert box.lease["spec"]["leaseTransitions"] == 1


async def test_a_dead_holder_is_replaced_after_the_duration_it_promised() -> None:
    box, clock = LeaseBox(), Clock()
    await elector(box, "a").acquire()
    second = elector(box, "b", clock=clock)
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.05)
    clock.seconds = 0.99
    await asyncio.sleep(0.05)
    assert not second.leading
    clock.seconds = 1.01
    async with asyncio.timeout(5):
        await waiting
    assert box.holder == "b"


async def test_a_holder_whose_wall_clock_is_years_behind_is_not_robbed() -> None:
    box, clock = LeaseBox(), Clock()
    old = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    first = elector(box, "a", now=lambda: old)
    await first.acquire()
    second = elector(box, "b", clock=clock)
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.05)
    assert not second.leading
    waiting.cancel()


async def test_a_record_that_changes_restarts_the_wait() -> None:
    box, clock = LeaseBox(), Clock()
    times = iter(dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in range(1, 20))
    first = elector(box, "a", now=lambda: next(times))
    await first.acquire()
    second = elector(box, "b", clock=clock)
    waiting = asyncio.create_task(second.acquire())
    for seconds in (0.9, 1.8, 2.7):
        await asyncio.sleep(0.03)
        clock.seconds = seconds
        await first._attempt()
        await asyncio.sleep(0.03)
        assert not second.leading
    waiting.cancel()


async def test_two_copies_that_race_for_an_expired_lease_do_not_both_win() -> None:
    box, clock = LeaseBox(), Clock()
    await elector(box, "dead").acquire()
    rivals = [elector(box, name, clock=clock) for name in "bc"]
    racing = [asyncio.create_task(rival.acquire()) for rival in rivals]
    await asyncio.sleep(0.05)
    clock.seconds = 2
    await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED, timeout=5)
    await asyncio.sleep(0.05)
    assert [rival.leading for rival in rivals].count(True) == 1
    for task in racing:
        task.cancel()


async def test_losing_the_api_for_longer_than_the_deadline_loses_the_lease() -> None:
    box = LeaseBox()
    first = elector(box, "a")
    await first.acquire()
    box.down = True
    with pytest.raises(LeaseLost, match="not renewed"):
        async with asyncio.timeout(10):
            await first.hold()
    assert not first.leading
    assert not first.valid


async def test_a_short_outage_does_not_lose_the_lease() -> None:
    box = LeaseBox()
    first = elector(box, "a", timing=Timing(duration=60, renew_deadline=30, retry_period=0.01))
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    box.down = True
    await asyncio.sleep(0.05)
    before, box.down = box.writes, False
    await within(5, lambda: box.writes > before)
    assert first.valid
    holding.cancel()


async def test_a_connection_that_falls_silent_does_not_cost_the_lease() -> None:
    box = LeaseBox()
    first = elector(box, "a", timing=Timing(duration=60, renew_deadline=2, retry_period=0.01))
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    before, box.mute = box.writes, 1
    await within(10, lambda: box.writes > before)
    assert first.valid
    holding.cancel()


async def test_a_holder_that_was_robbed_gives_up_at_once() -> None:
    box = LeaseBox()
    first = elector(box, "a", timing=Timing(duration=3600, renew_deadline=1800, retry_period=0.01))
    await first.acquire()
    assert box.lease
    await box.replace_lease({**box.lease, "spec": {**box.lease["spec"], "holderIdentity": "thief"}})
    with pytest.raises(LeaseLost, match="thief holds it now"):
        async with asyncio.timeout(5):
            await first.hold()


async def test_a_lease_deleted_under_its_holder_is_made_anew() -> None:
    box = LeaseBox()
    first = elector(box, "a")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    box.lease = None
    await within(5, lambda: box.lease is not None)
    assert box.holder == "a"
    holding.cancel()


async def test_a_process_that_was_frozen_knows_that_its_lease_may_be_gone() -> None:
    clock = Clock()
    first = elector(LeaseBox(), "a", clock=clock)
    await first.acquire()
    assert first.valid
    clock.seconds += 1.01
    assert first.leading
    assert not first.valid


async def test_giving_back_never_fails_and_only_the_holder_does_it() -> None:
    box = LeaseBox()
    first, second = elector(box, "a"), elector(box, "b")
    await second.release()
    await first.acquire()
    box.down = True
    await first.release()
    assert box.holder == "a"
    assert not first.leading


async def test_a_renewal_that_was_cut_short_does_not_keep_the_lease_from_being_given_back() -> None:
    box = LeaseBox()
    first = elector(box, "a")
    await first.acquire()
    assert box.lease
    await box.replace_lease(box.lease)  # it arrived, but its answer did not
    await first.release()
    assert box.holder == ""


async def test_a_lease_that_another_took_is_not_given_back() -> None:
    box = LeaseBox()
    first = elector(box, "a")
    await first.acquire()
    assert box.lease
    await box.replace_lease({**box.lease, "spec": {**box.lease["spec"], "holderIdentity": "b"}})
    await first.release()
    assert box.holder == "b"


async def test_a_restarted_copy_with_the_same_name_takes_its_own_lease_back_at_once() -> None:
    box = LeaseBox()
    await elector(box, "a").acquire()
    again = elector(box, "a", clock=Clock())
    async with asyncio.timeout(5):
        await again.acquire()
    assert box.lease
    assert box.lease["spec"]["leaseTransitions"] == 0
