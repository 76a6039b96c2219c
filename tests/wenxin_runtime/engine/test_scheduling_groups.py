"""Several data-parallel groups under one scheduler; that nothing starves there is shown in test_scheduler."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.scheduler_driver import choices, names, request, scheduler, step
from wenxin_runtime.engine.request import Request
from wenxin_runtime.engine.scheduler import Plan, Scheduler


def tokens(plan: Plan) -> dict[int, int]:
    """Tokens of each group."""
    found: Counter[int] = Counter()
    for chunk in plan:
        found[chunk.request.group] += chunk.count
    return dict(found)


def add(s: Scheduler, *requests: Request) -> None:
    for each in requests:
        s.add(each)


@pytest.mark.parametrize("groups", [2, 3])
def test_as_many_equal_prompts_as_groups_have_one_each(groups):
    s = scheduler(groups=groups)
    add(s, *(request(str(i), prompt=10) for i in range(groups)))
    assert tokens(step(s)) == dict.fromkeys(range(groups), 10)


def test_a_plan_stands_group_by_group_with_streams_first_in_each():
    s = scheduler(groups=2)
    add(s, *(request(f"stream{i}", prompt=3, answer=20, first_token=50 * i) for i in range(4)))
    step(s)
    add(s, *(request(f"prompt{i}", prompt=9, answer=20, first_token=500 * i) for i in range(4)))
    plan = step(s)
    assert [chunk.request.group for chunk in plan] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [chunk.count for chunk in plan] == [1, 1, 9, 9] * 2


def test_prompts_of_two_groups_share_the_budget_and_a_single_one_has_all_of_it():
    s = scheduler(groups=2, budget=20, beside=20)
    add(s, request("a", prompt=70))
    assert names(step(s)) == {"a": 20}
    add(s, request("b", prompt=20, first_token=500))
    assert [names(step(s)) for _ in range(3)] == [{"a": 10, "b": 10}, {"a": 10, "b": 10}, {"a": 19, "b": 1}]


def test_a_group_with_streams_gets_so_much_less_of_the_prompts():
    s = scheduler(groups=2, budget=40, beside=40, blocks=400)
    add(s, *choices("a", "b", "c", "d", prompt=9, answer=30))
    step(s)
    step(s)
    add(s, *(request(name, prompt=1200, first_token=2000 * i) for i, name in enumerate(("beside none", "beside four"))))
    plan = step(s)
    assert tokens(plan) == {0: 20, 1: 20}
    assert (names(plan)["beside four"], names(plan)["beside none"]) == (16, 20)


def test_a_long_prompt_in_one_group_keeps_nobody_out_of_the_other():
    s = scheduler(groups=2, budget=20, beside=20)
    add(s, request("long", prompt=200))
    step(s)
    add(s, request("short", prompt=8, first_token=500))
    assert names(step(s)) == {"long": 10, "short": 8}


def test_a_request_goes_to_the_group_that_knows_its_beginning():
    s = scheduler(groups=3, caching=True, budget=200, beside=200)
    add(s, *(request(str(i), prompt=40, answer=1, first_token=100 * i) for i in range(3)))
    homes = {chunk.request.request_id: chunk.request.group for chunk in step(s)}
    add(s, request("again", prompt=41, first_token=200))
    (chunk,) = step(s)
    assert (chunk.request.group, chunk.count) == (homes["2"], 1)


def test_a_prefix_that_everybody_shares_is_soon_known_in_all_groups():
    s = scheduler(groups=2, caching=True, slots=8, blocks=200)
    for i in range(8):
        add(s, request(str(i), prompt=300, answer=100))
        step(s)
        for _ in range(6):
            step(s)
    assert Counter(r.group for r in s.running) == {0: 4, 1: 4}
    assert s.prefix_hits == 6 * 296


def test_an_idle_groups_known_prefixes_are_not_driven_out_by_the_other_ones():
    s = scheduler(groups=2, caching=True)
    homes = []
    for i in range(4):
        add(s, request(str(i), prompt=40, answer=1, first_token=100 * i))
        homes += [chunk.request.group for chunk in step(s)]
    assert homes == [0, 1, 0, 1]


def test_the_choices_of_a_prompt_stay_together_and_share_its_blocks():
    s = scheduler(groups=2, slots=8)
    siblings = choices(*"abcd", prompt=18)
    add(s, *siblings, request("other", prompt=18, first_token=500))
    step(s)
    step(s)
    assert len({tuple(sibling.table.blocks[:4]) for sibling in siblings}) == 1
    assert {sibling.group for sibling in siblings} == {0}
    assert s.running[-1].group == 1


def crowded(last: int) -> Scheduler:
    """Two groups of 16 tokens: in the first a and c, which will not both fit, in the other b, and d with its answer."""
    s = scheduler(groups=2, blocks=8, block_size=2, slots=4)
    for number, (name, answer) in enumerate((("a", 12), ("b", 4), ("c", 12), ("d", last))):
        add(s, request(name, prompt=3, answer=answer, first_token=50 * number))
    step(s)
    assert {r.request_id: r.group for r in s.running} == {"a": 0, "b": 1, "c": 0, "d": 1}
    return s


def test_blocks_run_out_in_one_group_and_its_last_gives_way_though_another_is_younger():
    s = crowded(last=10)
    before = []
    while not s.preemptions:
        before = [r.request_id for r in s.running]
        plan = step(s)
    assert before == ["a", "c", "d"]
    assert {chunk.request.request_id for chunk in plan if chunk.start} == {"a", "d"}


def test_a_preempted_request_goes_on_at_once_in_a_group_that_has_room():
    s = crowded(last=4)
    while not s.preemptions:
        plan = step(s)
    assert [(chunk.request.request_id, chunk.request.group) for chunk in plan if not chunk.start] == [("c", 1)]
    while s.running or s.waiting:
        step(s)
    assert s.preemptions == 1


def test_the_first_in_line_waits_for_room_and_is_overtaken_in_no_group():
    s = scheduler(groups=2, blocks=6, block_size=4)
    add(s, *(request(f"running{i}", prompt=13, answer=2, first_token=100 * i) for i in range(2)))
    add(s, request("large", prompt=16, answer=2, first_token=300), request("small", prompt=1, answer=2))
    assert [set(names(step(s))) for _ in range(3)] == [
        {"running0", "running1"},
        {"running0", "running1"},
        {"large", "small"},
    ]


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    groups=st.integers(1, 4),
    budget=st.integers(12, 40),
)
def test_no_group_gets_more_than_its_share_but_a_token_for_each_request(prompts, groups, budget):
    s = scheduler(groups=groups, blocks=1000, budget=budget, beside=budget, slots=12)
    add(s, *(request(str(i), prompt, answer=1, first_token=100 * i) for i, prompt in enumerate(prompts)))
    while s.running or s.waiting:
        plan = step(s)
        with_prompts = {chunk.request.group for chunk in plan if chunk.count > 1}
        for group in with_prompts:
            requests = [chunk for chunk in plan if chunk.request.group == group]
            assert tokens(plan)[group] <= -(-budget // len(with_prompts)) + len(requests) - 1
