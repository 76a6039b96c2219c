"""Both ends of the lines between ranks, over real sockets, each with its own thread."""

import queue
import socket
from collections.abc import Callable, Iterator, Mapping

import pytest

from wenxin_runtime.errors import RankLost
from wenxin_runtime.parallel.pulse import ROUNDS, FollowerPulse, LeaderPulse
from wenxin_runtime.parallel.ranks import ALONE
from wenxin_runtime.parallel.roll_call import report
from wenxin_runtime.parallel.team import Team
from wenxin_runtime.parallel.wire import Farewell, Hello, Line, Pulse

EVERY_SECONDS = 0.05
NEVER = 3600.0
PATIENCE = 30.0


class Group:
    """A leader of two, whose lines' other ends the test holds or gives to a FollowerPulse."""

    def __init__(self, every_seconds: float = EVERY_SECONDS) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ends = {rank: Line(socket.create_connection(self.listener.getsockname())) for rank in (1, 2)}
        self.lost: queue.Queue[RankLost] = queue.Queue()
        self.beats: queue.Queue[Mapping[int, Pulse]] = queue.Queue()
        lines = {rank: Line(self.listener.accept()[0]) for rank in self.ends}
        self.leader = LeaderPulse(
            lines,
            self.listener,
            lambda rank, what: RankLost(f"rank {rank} {what}"),
            self.lost.put,
            lambda last: self.beats.put(dict(last)),
            every_seconds,
        )
        self.ended: dict[int, queue.Queue[Farewell]] = {rank: queue.Queue() for rank in self.ends}
        self.followers: dict[int, FollowerPulse] = {}

    def follow(self, rank: int, every_seconds: float = EVERY_SECONDS) -> FollowerPulse:
        self.followers[rank] = FollowerPulse(self.ends[rank], every_seconds, lambda _: None, self.ended[rank].put)
        return self.followers[rank]

    def until(self, condition: Callable[[Mapping[int, Pulse]], bool]) -> None:
        """Wait for a round at which `condition` holds of the last pulses."""
        while not condition(self.beats.get(timeout=PATIENCE)):
            pass

    def close(self) -> None:
        self.leader.close(Farewell())
        for rank, end in self.ends.items():
            if rank in self.followers:
                self.followers[rank].leave(Farewell())
            end.close()
        self.listener.close()


@pytest.fixture
def groups() -> Iterator[Callable[..., Group]]:
    made: list[Group] = []

    def make(every_seconds: float = EVERY_SECONDS) -> Group:
        made.append(Group(every_seconds))
        return made[-1]

    yield make
    for group in made:
        group.close()


def test_ranks_that_live_are_not_given_up(groups):
    group = groups()
    for rank in (1, 2):
        group.follow(rank)
    for _ in range(2 * ROUNDS):
        group.beats.get(timeout=PATIENCE)
    assert group.lost.empty()
    assert all(ended.empty() for ended in group.ended.values())


def test_a_rank_that_is_gone_is_noticed_without_waiting_for_a_round(groups):
    group = groups(NEVER)
    group.follow(2)
    group.ends[1].close()
    assert str(group.lost.get(timeout=PATIENCE)) == "rank 1 has closed its connection"
    assert str(group.leader.failure(0)) == "rank 1 has closed its connection"


def test_a_silent_rank_is_given_up_and_the_others_end_with_its_number(groups):
    group = groups()
    group.follow(2)
    lost = group.lost.get(timeout=PATIENCE)
    assert str(lost).startswith("rank 1 has not answered for 0.5 s")
    assert group.ended[2].get(timeout=PATIENCE) == Farewell("RankLost", str(lost), 4)


def test_a_rank_that_gives_up_says_why(groups):
    group = groups()
    group.follow(2)
    group.follow(1).leave(Farewell("InvalidCheckpoint", "a shard is cut off", 3))
    assert str(group.lost.get(timeout=PATIENCE)) == "rank 1 gave up: InvalidCheckpoint: a shard is cut off"


def test_a_rank_whose_line_says_nonsense_is_lost(groups):
    group = groups()
    group.follow(2)
    group.ends[1]._connection.sendall(b"\xff" * 100)
    assert "that is none of us" in str(group.lost.get(timeout=PATIENCE))


def test_the_loss_of_the_leader_ends_a_rank_at_once():
    ours, theirs = pair()
    ended: queue.Queue[Farewell] = queue.Queue()
    pulse = FollowerPulse(theirs, NEVER, lambda _: None, ended.put)
    ours.close()
    farewell = ended.get(timeout=PATIENCE)
    assert (farewell.reason, farewell.exit_code) == ("RankLost", 4)
    assert farewell.message.startswith("rank 0 ")
    pulse.leave(Farewell())


def test_a_silent_leader_ends_a_rank():
    ours, theirs = pair()
    ended: queue.Queue[Farewell] = queue.Queue()
    pulse = FollowerPulse(theirs, EVERY_SECONDS, lambda _: None, ended.put)
    assert ended.get(timeout=PATIENCE).message.startswith("rank 0 has not answered for 0.5 s")
    pulse.leave(Farewell())
    ours.close()


def test_a_group_that_ends_because_it_should_loses_nobody(groups):
    group = groups()
    followers = [group.follow(rank) for rank in (1, 2)]
    group.leader.close(Farewell())
    for follower in followers:
        follower.leave(Farewell())  # what the main thread does when it is told to stop
    assert group.lost.empty()
    assert all(ended.empty() for ended in group.ended.values())


def test_loading_and_orders_are_reported_and_the_end_of_loading_at_once(groups):
    group = groups()
    group.follow(2)
    follower = group.follow(1, NEVER)
    follower.loading(3, 10)
    follower.carried_out()
    follower.loaded()
    group.until(lambda last: last[1] == Pulse(3, 10, loaded=True, orders=1))
    assert group.leader.last[0] == Pulse(3, 10, loaded=True, orders=1)


def test_the_loading_of_all_ranks_is_reported_as_one(groups):
    group = groups()
    team = Team(ALONE, pulse=group.leader)
    reports: list[tuple[int, int]] = []
    summed = team.summed(lambda done, total: reports.append((done, total)))
    assert summed is not None
    summed(1, 10)
    assert reports == [(1, 30)]  # the others have not said how much they have to read: as much as we
    followers = [group.follow(rank) for rank in (1, 2)]
    for follower in followers:
        follower.loading(12, 12)
        follower.loaded()
    team.wait_until_loaded(lambda done, total: reports.append((done, total)), 10)
    assert group.leader.last == [Pulse(12, 12, loaded=True)] * 2
    summed(10, 10)
    assert reports[-1] == (34, 34)


def test_a_rank_that_is_lost_while_it_loads_is_not_waited_for(groups):
    group = groups()
    group.follow(2).loaded()
    group.ends[1].close()
    with pytest.raises(RankLost, match="rank 1 has closed its connection"):
        Team(ALONE, pulse=group.leader).wait_until_loaded(None, 10)


def test_who_calls_a_complete_group_is_told_to_call_again(groups):
    group = groups()
    for rank in (1, 2):
        group.follow(rank)
    late = Hello(rank=1, node=0, version="1")
    with pytest.raises(RankLost, match="the group is complete"):
        report(group.listener.getsockname(), late, 0.0)
    assert group.lost.empty()


def test_callers_who_say_nothing_do_not_pile_up(groups):
    group = groups(NEVER)
    callers = [socket.create_connection(group.listener.getsockname()) for _ in range(100)]
    assert callers[0].recv(1) == b""
    for caller in callers:
        caller.close()
    assert group.lost.empty()


def pair() -> tuple[Line, Line]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        return Line(listener.accept()[0]), Line(theirs)
