"""Who goes first, and whether a new replica comes before an old one goes: the pure decision."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenxin_operator import rollout
from wenxin_operator.api.rollout import Rollout
from wenxin_operator.plan.groups import Group, decide
from wenxin_operator.pods import PodSeen, Problem
from wenxin_operator.rollout import BUSIEST, Course, Pace, Rolling, Room, costs, course

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FULL = Problem("Unschedulable", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu")
ONE_GPU = rollout.written({"limits": {"nvidia.com/gpu": "1"}}, {}, 1)
TWO_GPUS = rollout.written({"limits": {"nvidia.com/gpu": "2"}}, {}, 1)
SURGE, REPLACE = Pace(1, 0), Pace(0, 1)


def pod(name: str, *, ready: bool = True, problem: Problem | None = None, **more: Any) -> PodSeen:
    return PodSeen(name, "r", "flags", ready, leaving=False, problem=problem, **{"room": ONE_GPU, **more})


def rolling(**more: Any) -> Rolling:
    """Two old pods serve; the new one has no node."""
    new = pod("new", ready=False, problem=FULL, since=NOW)
    made = {"newest": (new,), "older": (pod("a"), pod("b")), "leaving": 0, "room": ONE_GPU, "wanted": 2, "grace": 300}
    return Rolling(**{**made, **more})


def after(seconds: float, asked: Rollout | None = None, **more: Any) -> Course:
    return course(asked or Rollout(), rolling(**more), NOW + timedelta(seconds=seconds))


class TestCourse:
    def test_with_room_a_new_one_comes_first(self) -> None:
        found = after(0, newest=(pod("new", ready=False),))
        assert (found.pace, found.no_room, found.retry_at) == (SURGE, "", None)

    def test_a_new_one_without_room_is_waited_for_as_long_as_the_spec_says(self) -> None:
        found = after(29)
        assert found.pace == SURGE
        assert found.retry_at == NOW + timedelta(seconds=30)
        assert found.passing, "it is no trouble yet"
        assert after(600, Rollout(surge_timeout="15m")).pace == SURGE

    def test_then_an_old_one_goes_for_it_and_the_words_say_why(self) -> None:
        found = after(30)
        assert found.pace == REPLACE
        assert found.no_room == FULL.message
        assert FULL.message in found.words
        assert found.passing

    def test_what_there_was_no_room_for_is_kept_until_the_rollout_is_done(self) -> None:
        loading = pod("new", ready=False)
        assert after(60, no_room="full", newest=(loading,), older=(pod("a"),)).pace == REPLACE
        assert after(60, no_room="full", newest=(loading,), older=(), wanted=1).no_room == "full"
        done = after(60, no_room="full", newest=(pod("new"), pod("other")), older=())
        assert (done.pace, done.no_room) == (SURGE, "")

    def test_with_one_replica_the_gap_is_told(self) -> None:
        assert "nothing answers" in after(30, older=(pod("a"),), wanted=1).words
        assert "nothing answers" not in after(30).words

    @pytest.mark.parametrize(
        "room", [TWO_GPUS, rollout.written({"limits": {"nvidia.com/gpu": "1"}}, {"nodeSelector": {"a": "b"}}, 1)]
    )
    def test_for_a_new_one_that_fits_no_old_ones_place_none_goes(self, room: str) -> None:
        found = after(3600, room=room)
        assert found.pace == SURGE
        assert "no old one goes" in found.words
        assert not found.passing, "somebody must see to it"

    def test_a_new_one_that_suits_no_node_costs_no_old_one(self) -> None:
        unsuited = Problem("Unschedulable", "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity")
        assert after(3600, newest=(pod("new", ready=False, problem=unsuited),)).pace == SURGE

    def test_a_version_that_fails_costs_no_old_one(self) -> None:
        crash = Problem("CrashLoopBackOff", "the container ended with exit code 1")
        assert after(3600, newest=(pod("new", ready=False, problem=crash, since=NOW),)).pace == SURGE

    def test_none_goes_while_another_new_one_has_its_room_and_loads(self) -> None:
        waits, loads = pod("new", ready=False, problem=FULL, since=NOW), pod("other", ready=False)
        assert after(3600, newest=(waits, loads)).pace == SURGE
        assert after(3600, newest=(waits, loads)).passing
        assert not after(3600, newest=(waits, loads), older=()).passing, "nobody makes way for it"

    def test_none_goes_while_another_that_went_before_drains_or_has_just_gone(self) -> None:
        waits = pod("new", ready=False, problem=FULL, since=NOW)
        assert after(3600, leaving=1).pace == SURGE
        assert after(389, newest=(waits, pod("other"))).pace == SURGE, "there was room for one more"
        assert after(390, newest=(waits, pod("other"))).pace == REPLACE

    def test_a_group_of_which_one_pod_has_no_room_has_none(self) -> None:
        leader = pod("new-0", ready=False, group="new")
        worker = pod("new-1", ready=False, group="new", node_rank=1, problem=FULL, since=NOW)
        assert after(30, newest=(leader, worker)).pace == REPLACE

    def test_that_it_replaces_hides_no_pod_that_suits_no_node(self) -> None:
        unsuited = Problem("Unschedulable", "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity")
        replace = Rollout(strategy="Replace")
        newest = (pod("new", ready=False, problem=unsuited, since=NOW),)
        assert not after(60, replace, newest=newest, older=(pod("a"),)).passing
        assert not rollout.lacks_room(unsuited)

    def test_an_old_pod_that_does_not_say_what_it_holds_goes(self) -> None:
        assert after(30, older=(pod("a", room=""),)).pace == REPLACE

    def test_a_quota_that_is_used_up_is_no_room_and_a_policy_that_forbids_is_trouble(self) -> None:
        used_up = Problem("FailedCreate", 'pods "x" is forbidden: exceeded quota: gpus, requested: 1, used: 2')
        forbidden = Problem("FailedCreate", 'pods "x" is forbidden: violates PodSecurity')
        assert after(30, newest=(), refused=(used_up, NOW)).pace == REPLACE
        assert after(29, newest=(), refused=(used_up, NOW)).pace == SURGE
        assert after(3600, newest=(), refused=(forbidden, NOW)).pace == SURGE

    def test_nobody_goes_for_more_replicas_of_the_same_version(self) -> None:
        assert after(3600, older=()) == after(0, older=(), newest=())

    def test_a_strategy_that_is_asked_for_is_kept_to(self) -> None:
        assert after(3600, Rollout(strategy="Surge", max_surge=3)).pace == Pace(3, 0)
        assert after(0, Rollout(strategy="Replace", max_unavailable=2)).pace == Pace(0, 2)

    def test_that_a_new_one_waits_for_an_old_one_that_drains_is_no_trouble(self) -> None:
        replace = Rollout(strategy="Replace")
        assert after(0, replace, older=(pod("a"),), leaving=1).passing
        assert after(0, replace).passing, "one is about to go"
        assert after(300, replace, older=(pod("a"),)).passing, "one has just gone"
        assert not after(400, replace, older=(pod("a"),)).passing, "somebody else took its room"

    @pytest.mark.parametrize("surges", [True, False])
    def test_where_nothing_is_tried_auto_is_what_suits_the_kind(self, *, surges: bool) -> None:
        assert rollout.settled(Rollout(), surges=surges).pace == (SURGE if surges else REPLACE)
        assert rollout.settled(Rollout(strategy="Surge"), surges=surges).pace == SURGE
        assert rollout.settled(Rollout(strategy="Replace"), surges=surges).pace == REPLACE


class TestRoom:
    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"where": "a", "requests": 5, "pods": 1}', "null"])
    def test_what_nobody_wrote_is_no_room(self, text: str) -> None:
        assert Room.read(text) is None

    def test_a_limit_without_a_request_is_one(self) -> None:
        room = Room.read(rollout.written({"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "500m"}}, {}, 1))
        assert room is not None
        assert {name: float(size) for name, size in room.requests.items()} == {"cpu": 0.5, "memory": 2 * 2**30}

    def test_as_much_or_less_fits_and_more_pods_do_not(self) -> None:
        one, two = (Room.read(text) for text in (ONE_GPU, TWO_GPUS))
        group = Room.read(rollout.written({"limits": {"nvidia.com/gpu": "1"}}, {}, 2))
        assert one is not None
        assert two is not None
        assert group is not None
        assert one.holds(one)
        assert two.holds(one)
        assert not one.holds(two)
        assert group.holds(one)
        assert not one.holds(group)


def order_of_going(pods: list[PodSeen], written: Mapping[str, int]) -> list[PodSeen]:
    """As the controller of ReplicaSets has it: not ready before ready, then the lowest cost first."""
    return sorted(pods, key=lambda one: (one.ready, written.get(one.name, one.cost)))


class TestCosts:
    def test_the_idlest_is_the_cheapest_and_one_that_says_nothing_the_dearest(self) -> None:
        pods = [pod("busy"), pod("idle"), pod("silent"), pod("loading", ready=False)]
        assert costs(pods, {"busy": 7, "idle": 0}) == {"busy": 7, "silent": BUSIEST}

    def test_what_an_earlier_shrink_wrote_is_put_right(self) -> None:
        pods = [pod("was-busy", cost=9), pod("is-busy", cost=0), pod("crashed", ready=False, cost=4)]
        assert costs(pods, {"was-busy": 0, "is-busy": 3}) == {"was-busy": 0, "is-busy": 3, "crashed": 0}

    def test_a_cost_that_is_right_is_not_written_again(self) -> None:
        assert costs([pod("a", cost=2), pod("b")], {"a": 2, "b": 0}) == {}

    @given(
        st.lists(
            st.tuples(st.booleans(), st.integers(-5, 9), st.none() | st.integers(0, 2**40)), min_size=1, max_size=8
        ),
        st.data(),
    )
    def test_whatever_was_written_before_nobody_goes_who_is_busier_than_one_who_stays(
        self, drawn: list[tuple[bool, int, int | None]], data: st.DataObject
    ) -> None:
        pods = [pod(str(number), ready=ready, cost=cost) for number, (ready, cost, _) in enumerate(drawn)]
        busy = {str(number): load for number, (ready, _, load) in enumerate(drawn) if ready and load is not None}
        written = costs(pods, busy)
        assert all(-(2**31) <= cost < 2**31 for cost in written.values())
        number = data.draw(st.integers(0, len(pods)))
        order = order_of_going(pods, written)
        going, staying = order[:number], order[number:]
        if any(one.ready for one in going):
            assert all(one.ready for one in staying), "those that do not serve go first"
        most = max((min(busy.get(one.name, BUSIEST), BUSIEST) for one in going if one.ready), default=0)
        assert all(min(busy.get(one.name, BUSIEST), BUSIEST) >= most for one in staying if one.ready)


class TestGroups:
    """The whole decision over groups of one pod each, on a cluster with room for so many."""

    @given(
        wanted=st.integers(1, 5),
        spare=st.integers(0, 3),
        broken=st.booleans(),
        asked=st.builds(
            Rollout,
            strategy=st.sampled_from(["Auto", "Auto", "Surge", "Replace"]),
            max_surge=st.integers(1, 3),
            max_unavailable=st.integers(1, 3),
        ),
    )
    def test_a_rollout_ends_and_never_takes_away_more_than_it_may(
        self, wanted: int, spare: int, *, broken: bool, asked: Rollout
    ) -> None:
        capacity, present, no_room, now = wanted + spare, {f"old-{n}": True for n in range(wanted)}, "", NOW
        for _ in range(60):
            found = course(asked, _rolling(wanted, present, capacity, no_room), now)
            no_room, before = found.no_room, dict(present)
            free = [f"new-{now.timestamp():.0f}-{number}" for number in range(wanted)]
            seen = [Group(name, name[:3], "", ready=ready) for name, ready in present.items()]
            after = decide(seen, free, "new", wanted, found.pace)
            present = {name: present.get(name, False) for name in (*after.older, *after.newest)}
            assert sum(present.values()) >= min(sum(before.values()), wanted - found.pace.unavailable)
            assert len(present) <= max(len(before), wanted + found.pace.surge)
            placed = [name for name in present if name in before][:capacity]
            if not broken:
                present |= dict.fromkeys(placed, True)
            now += timedelta(seconds=31)
        new = [name for name in present if name.startswith("new")]
        if broken:
            assert sum(present.values()) >= wanted - asked.max_unavailable
            assert asked.strategy != "Auto" or spare == 0 or sum(present.values()) == wanted, "it surges where it can"
        elif asked.strategy == "Surge" and spare == 0:
            assert sum(present.values()) == wanted, "it waits for room and everybody serves"
        else:
            assert sorted(present) == sorted(new)
            assert all(present.values())
            assert len(present) == wanted


def _rolling(wanted: int, present: Mapping[str, bool], capacity: int, no_room: str) -> Rolling:
    """The pods of the groups; those for which there is no room say so."""
    names = list(present)
    pods = [
        pod(name, ready=present[name], problem=FULL if names.index(name) >= capacity else None, since=NOW)
        for name in names
    ]
    newest = tuple(one for one in pods if one.name.startswith("new"))
    older = tuple(one for one in pods if one.name.startswith("old"))
    return Rolling(wanted, newest, older, leaving=0, room=ONE_GPU, grace=300, no_room=no_room)
