"""What the work queue promises, by example and by random play."""

import asyncio
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wenxin_operator.work_queue import QueueClosed, WorkQueue, work

KEYS = st.sampled_from("abcde")


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def make_queue(clock: Clock | None = None, chance: float = 0.0) -> WorkQueue[str]:
    return WorkQueue(initial=1.0, maximum=60.0, clock=clock or Clock(), chance=lambda: chance)


def drain(queue: WorkQueue[str]) -> list[str]:
    taken = []
    while (key := queue.take()) is not None:
        taken.append(key)
        queue.done(key)
    return taken


def test_a_key_added_many_times_is_handed_out_once() -> None:
    queue = make_queue()
    for key in "abaab":
        queue.add(key)
    assert len(queue) == 2
    assert drain(queue) == ["a", "b"]


def test_a_key_added_while_it_is_worked_on_is_handed_out_again_afterwards() -> None:
    queue = make_queue()
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take() is None
    queue.done("a")
    assert drain(queue) == ["a"]


def test_a_delayed_key_comes_when_it_is_due_and_not_before() -> None:
    clock = Clock()
    queue = make_queue(clock)
    queue.add_after("a", 10)
    clock.seconds += 9.9
    assert queue.take() is None
    clock.seconds += 0.1
    assert drain(queue) == ["a"]


def test_the_earliest_of_several_delays_counts() -> None:
    clock = Clock()
    queue = make_queue(clock)
    for delay in (10, 3, 7):
        queue.add_after("a", delay)
    clock.seconds += 3
    assert drain(queue) == ["a"]
    clock.seconds += 100
    assert drain(queue) == []


def test_a_pass_makes_a_later_delayed_visit_unnecessary() -> None:
    clock = Clock()
    queue = make_queue(clock)
    queue.add_after("a", 10)
    queue.add("a")
    assert drain(queue) == ["a"]
    clock.seconds += 10
    assert drain(queue) == []


def test_backoff_doubles_up_to_its_maximum_and_starts_anew_after_success() -> None:
    queue = make_queue()
    assert [queue.retry("a") for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert queue.retry("b") == 1
    queue.forget("a")
    assert queue.retry("a") == 1


def test_jitter_takes_at_most_half_of_the_backoff_away() -> None:
    assert make_queue(chance=0.999).retry("a") == pytest.approx(0.5, abs=0.001)
    assert make_queue(chance=0.0).retry("a") == 1


def test_failing_for_years_does_not_overflow() -> None:
    queue = make_queue()
    for _ in range(2000):
        assert queue.retry("a") <= 60


async def test_waiting_for_a_key_ends_when_one_is_added() -> None:
    queue = make_queue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await waiting == "a"


async def test_waiting_ends_when_a_delay_is_over() -> None:
    queue: WorkQueue[str] = WorkQueue(initial=1, maximum=1)
    queue.add_after("a", 0.01)
    assert await queue.get() == "a"


async def test_closing_ends_every_wait_and_hands_out_nothing_more() -> None:
    queue = make_queue()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert all(isinstance(ended, QueueClosed) for ended in await asyncio.gather(*waiting, return_exceptions=True))
    queue.add("a")
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_a_failed_visit_is_retried_and_leaves_the_other_keys_alone() -> None:
    queue: WorkQueue[str] = WorkQueue(initial=0.001, maximum=0.001)
    visits: Counter[str] = Counter()

    async def visit(key: str) -> float | None:
        visits[key] += 1
        if key == "bad" and visits[key] < 3:
            raise RuntimeError("not yet")
        if visits["bad"] == 3 and visits["good"] == 1:
            queue.close()
        return None

    queue.add("bad")
    queue.add("good")
    await asyncio.wait_for(work(queue, visit), 10)
    assert visits == {"bad": 3, "good": 1}


async def test_a_visit_that_asks_to_come_again_is_visited_again() -> None:
    queue: WorkQueue[str] = WorkQueue(initial=1, maximum=1)
    visits = 0

    async def visit(_: str) -> float | None:
        nonlocal visits
        visits += 1
        if visits == 3:
            queue.close()
        return 0.001

    queue.add("a")
    await asyncio.wait_for(work(queue, visit), 10)
    assert visits == 3


async def test_many_workers_never_share_a_key_and_see_every_last_change() -> None:
    queue: WorkQueue[str] = WorkQueue(initial=0.001, maximum=0.002)
    wanted: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    inside: set[str] = set()

    async def visit(key: str) -> float | None:
        assert key not in inside
        inside.add(key)
        before = wanted[key]
        await asyncio.sleep(0)
        inside.discard(key)
        if before % 7 == 3 and seen[key] < before - 1:
            seen[key] = before - 1
            raise RuntimeError("fails now and then")
        seen[key] = before
        return None

    workers = [asyncio.create_task(work(queue, visit)) for _ in range(8)]
    for turn in range(300):
        key = "abcdefg"[turn % 7]
        wanted[key] += 1
        queue.add(key)
        if turn % 3 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(20):
        while seen != wanted:  # noqa: ASYNC110 - watches plain counters
            await asyncio.sleep(0.001)
    queue.close()
    await asyncio.gather(*workers)


class QueuePlay(RuleBasedStateMachine):
    """Random play against a plain model: which keys still owe a visit, and since when."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = make_queue(self.clock)
        self.owed: set[str] = set()
        self.delayed: dict[str, float] = {}
        self.running: set[str] = set()

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.owed.add(key)

    @rule(key=KEYS, seconds=st.floats(0, 20))
    def add_after(self, key: str, seconds: float) -> None:
        self.queue.add_after(key, seconds)
        self.delayed[key] = min(self.delayed.get(key, float("inf")), self.clock.seconds + seconds)

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        due = self.clock.seconds + self.queue.retry(key)
        self.delayed[key] = min(self.delayed.get(key, float("inf")), due)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule()
    def take(self) -> None:
        self._fall_due()
        key = self.queue.take()
        if key is None:
            assert self.owed <= self.running
            return
        assert key in self.owed
        assert key not in self.running
        self.owed.discard(key)
        self.delayed.pop(key, None)
        self.running.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.done(key)
        self.running.discard(key)

    @invariant()
    def counts_agree(self) -> None:
        self._fall_due()
        assert len(self.queue) == len(self.owed)
        assert self.queue.running == len(self.running)

    def _fall_due(self) -> None:
        for key, due in list(self.delayed.items()):
            if due <= self.clock.seconds:
                del self.delayed[key]
                self.owed.add(key)


TestQueuePlay = QueuePlay.TestCase
TestQueuePlay.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
