"""Which groups there should be, as a table: what there is, what is asked for, and what follows."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenxin_operator import names
from wenxin_operator.plan.groups import Group, Pace, decide, free_names, sets

GPU = Pace(surge=0, unavailable=1)
CPU = Pace(surge=1, unavailable=0)


class Story(NamedTuple):
    """Groups are letters: of the newest revision a, b, c, of older ones x, y, z; a capital one is ready."""

    present: str
    replicas: int
    pace: Pace
    stay: str
    new: int


STORIES = {
    "from nothing all are made": Story("", 3, GPU, "", 3),
    "at rest nothing happens": Story("ABC", 3, GPU, "ABC", 0),
    "a lost group is made anew": Story("AC", 3, GPU, "AC", 1),
    "a group that is not ready stays": Story("Ab", 2, GPU, "Ab", 0),
    "more are made": Story("A", 3, CPU, "A", 2),
    "of fewer the youngest goes": Story("ABC", 2, GPU, "AB", 0),
    "of fewer one that is not ready goes first": Story("aBC", 2, GPU, "BC", 0),
    "nothing is left of zero": Story("ABxY", 0, CPU, "", 0),
    "on GPUs one goes first": Story("XYZ", 3, GPU, "XY", 0),
    "then one is made in its place": Story("XY", 3, GPU, "XY", 1),
    "and waited for": Story("XYa", 3, GPU, "XYa", 0),
    "and the next goes": Story("XYA", 3, GPU, "XA", 0),
    "the last two": Story("XAB", 3, GPU, "AB", 0),
    "on GPUs the only one goes first": Story("X", 1, GPU, "", 0),
    "on GPUs one that is not ready goes first": Story("xYZ", 3, GPU, "YZ", 0),
    "a rollout that fails takes no second one": Story("XYab", 4, GPU, "XYab", 0),
    "on a CPU one is made first": Story("XY", 2, CPU, "XY", 1),
    "on a CPU it is waited for": Story("XYa", 2, CPU, "XYa", 0),
    "on a CPU one goes for it": Story("XYA", 2, CPU, "XA", 0),
    "on a CPU the next is made": Story("XA", 2, CPU, "XA", 1),
    "on a CPU the last goes": Story("XAB", 2, CPU, "AB", 0),
    "a rollback keeps what serves": Story("ABx", 3, GPU, "AB", 0),
    "a rollout and more at once": Story("X", 3, GPU, "X", 2),
    "a rollout and fewer at once": Story("WXYZ", 2, GPU, "W", 0),
}


def seen(letter: str) -> Group:
    revision = "new" if letter.lower() < "l" else "old"
    return Group(letter, revision, created=f"2026-01-01T00:00:{ord(letter.lower()):02d}Z", ready=letter.isupper())


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_what_there_is_says_what_there_should_be(story: Story) -> None:
    found = decide([seen(letter) for letter in story.present], ["n", "o", "p", "q"], "new", story.replicas, story.pace)
    made = tuple("nopq"[: story.new])
    assert set(found.newest) | set(found.older) == set(story.stay) | set(made)
    assert found.newest[len(found.newest) - len(made) :] == made


@pytest.mark.parametrize("pace", [GPU, CPU])
@given(before=st.integers(0, 6), replicas=st.integers(0, 6), broken=st.booleans())
def test_a_rollout_ends_and_never_serves_with_less_than_it_may(
    pace: Pace, before: int, replicas: int, *, broken: bool
) -> None:
    present = [Group(f"old-{n}", "old", "", ready=True) for n in range(before)]
    least = min(before, replicas - pace.unavailable)
    for step in range(40):
        free = [f"new-{step}-{n}" for n in range(replicas)]
        after = decide(present, free, "new", replicas, pace)
        assert len(after.newest) + len(after.older) <= max(replicas + pace.surge, len(present))
        stay = [group for group in present if group.name in after.newest + after.older]
        made = [Group(name, "new", f"{step:02d}", ready=False) for name in after.newest if name in free]
        assert sum(group.ready for group in stay) >= least
        if not made and stay == present and (broken or all(group.ready for group in present)):
            break
        present = stay + made
        if not broken:
            present = [Group(group.name, group.revision, group.created, ready=True) for group in present]
    else:
        pytest.fail("it never ends")
    assert broken or [group.revision for group in present] == ["new"] * replicas


def test_the_order_in_which_groups_are_seen_is_no_matter() -> None:
    present = [Group(name, "old", "", ready=True) for name in "xyz"]
    first, second = (decide(groups, [], "new", 3, GPU) for groups in (present, present[::-1]))
    assert set(first.older) == set(second.older) == {"x", "y"}


def test_a_stateful_set_that_selects_no_group_is_none() -> None:
    group = {"kind": "StatefulSet", "spec": {"selector": {"matchLabels": {names.LABEL_GROUP: "ernie-0"}}}}
    other = {"kind": "StatefulSet", "spec": {"selector": {"matchLabels": {names.LABEL_COMPONENT: "redis"}}}}
    assert list(sets([group, other, {"kind": "Service", "spec": {}}])) == [group]


class TestNames:
    def test_a_group_is_named_by_its_revision_and_a_number(self) -> None:
        assert free_names("ernie", "0123abcd", 2, frozenset()) == ("ernie-0123abcd-0", "ernie-0123abcd-1")

    def test_a_name_of_which_a_pod_is_left_is_not_taken(self) -> None:
        taken = frozenset({"ernie-0123abcd-0", "ernie-0123abcd-2"})
        assert free_names("ernie", "0123abcd", 2, taken) == ("ernie-0123abcd-1", "ernie-0123abcd-3")

    @pytest.mark.parametrize("deployment", ["e", "a" * 63, "a-" * 31 + "a"])
    def test_a_long_name_leaves_room_for_what_kubernetes_adds(self, deployment: str) -> None:
        group = names.group(deployment, "0123abcd", 999)
        assert len(f"{group}-0123456789") <= 63
        assert group.endswith("-0123abcd-999")
        workers = f"{names.leader_worker_set(deployment)}-999"
        assert len(f"{workers}-0123456789") <= 63
        assert len(names.headless_service(deployment)) <= 63
