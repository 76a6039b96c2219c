"""Who computes when, and who waits."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.scheduler_driver import check_blocks, choices, names, request, scheduler, step
from wenxin_runtime.ipc import SamplingParams


def test_a_long_prompt_is_computed_in_chunks_of_the_budget():
    s = scheduler(budget=10)
    s.add(request("a", prompt=25))
    assert [names(step(s)) for _ in range(4)] == [{"a": 10}, {"a": 10}, {"a": 5}, {"a": 1}]


def test_streams_come_first_and_a_prompt_beside_them_gets_its_share():
    s = scheduler(budget=10, beside=6)
    s.add(request("stream", prompt=3, answer=50))
    step(s)
    s.add(request("long", prompt=40))
    for _ in range(6):
        plan = step(s)
        assert next(iter(names(plan).items())) == ("stream", 1)
        assert names(plan)["long"] <= 6


def test_prompts_are_admitted_in_the_order_of_arrival():
    s = scheduler(slots=2)
    for name in "abc":
        s.add(request(name, prompt=4))
    assert list(names(step(s))) == ["a", "b"]
    while s.waiting:
        step(s)
    assert s.running[-1].request_id == "c"


def test_a_request_that_does_not_fit_waits_and_is_not_overtaken():
    s = scheduler(blocks=6, block_size=4)
    s.add(request("a", prompt=16, answer=2))
    s.add(request("large", prompt=16, answer=2))
    s.add(request("small", prompt=1, answer=2))
    assert [list(names(step(s))) for _ in range(4)] == [["a"], ["a"], ["large", "small"], ["large", "small"]]


def test_when_blocks_run_out_the_youngest_gives_way_and_finishes_later():
    s = scheduler(blocks=6, block_size=2)
    s.add(request("old", prompt=4, answer=8))
    s.add(request("young", prompt=2, answer=8, first_token=50))
    finished = []
    for _ in range(60):
        before = {r.request_id for r in [*s.running, *s.waiting]}
        step(s)
        finished += before - {r.request_id for r in [*s.running, *s.waiting]}
    assert finished == ["old", "young"]
    assert s.preemptions > 0


def test_a_preempted_request_finds_its_own_blocks_again():
    s = scheduler(blocks=7, block_size=2, caching=True)
    s.add(request("old", prompt=4, answer=8))
    s.add(request("young", prompt=4, answer=6, first_token=50))
    starts = [chunk.start for _ in range(30) for chunk in step(s) if chunk.request.request_id == "young"]
    assert s.preemptions == 1
    fallen_back = [later for earlier, later in itertools.pairwise(starts) if later <= earlier]
    assert fallen_back == [2]


def test_a_lower_priority_number_is_admitted_sooner_and_equals_keep_their_order():
    s = scheduler(slots=1)
    for name, priority in (("late", 5), ("first", 0), ("second", 0), ("urgent", -1)):
        s.add(request(name, prompt=4, answer=1, priority=priority))
    assert [list(names(step(s))) for _ in range(4)] == [["urgent"], ["first"], ["second"], ["late"]]


def test_a_newcomer_of_a_higher_priority_waits_for_a_slot_as_everybody_does():
    s = scheduler(slots=1)
    s.add(request("running", prompt=4, answer=3, priority=9))
    step(s)
    s.add(request("urgent", prompt=4, answer=1, priority=0))
    assert [list(names(step(s))) for _ in range(3)] == [["running"], ["running"], ["urgent"]]


def test_when_blocks_run_out_the_lowest_priority_gives_way_before_the_youngest():
    s = scheduler(blocks=9, block_size=2)
    for number, (name, priority) in enumerate((("low", 1), ("high", 0), ("highest", -1))):
        s.add(request(name, prompt=2, answer=9, first_token=50 * number, priority=priority))
    waiting = []
    while s.running or s.waiting:
        step(s)
        waiting += [r.request_id for r in s.waiting]
    assert s.preemptions > 0
    assert waiting[0] == "low"
    assert "highest" not in waiting


def test_a_steady_flood_of_a_higher_priority_starves_a_lower_one():
    """What a priority is for, and what the reference says about it."""
    s = scheduler(slots=1)
    s.add(request("low", prompt=2, answer=1, priority=1))
    for number in range(50):
        s.add(request(str(number), prompt=2, answer=1, priority=0))
        assert list(names(step(s))) == [str(number)]
    assert list(names(step(s))) == ["low"]


def test_choices_wait_for_their_prompt_and_then_share_its_full_blocks():
    s = scheduler(budget=8)
    first, second = choices("first", "second", prompt=18)
    s.add(first)
    s.add(second)
    assert [names(step(s)) for _ in range(4)] == [
        {"first": 8},
        {"first": 8},
        {"first": 2, "second": 2},
        {"first": 1, "second": 1},
    ]
    assert list(second.table.blocks[:4]) == list(first.table.blocks[:4])
    assert second.table.blocks[4] != first.table.blocks[4]


def test_shared_blocks_outlive_the_choice_that_computed_them():
    s = scheduler()
    first, second = choices("first", "second", prompt=17)
    s.add(first)
    s.add(second)
    step(s)
    step(s)
    s.remove(first)
    check_blocks(s)
    assert names(step(s)) == {"second": 1}
    s.remove(second)
    assert s.pools.owned == 0


def test_removing_a_waiting_and_a_running_request_frees_what_they_own():
    s = scheduler(slots=1)
    running, waiting = request("a", prompt=9), request("b", prompt=9)
    s.add(running)
    s.add(waiting)
    step(s)
    s.remove(running)
    s.remove(waiting)
    assert (s.pools.owned, s.schedule()) == (0, ())


def test_a_cached_prefix_is_not_computed_again_and_is_counted():
    s = scheduler(caching=True)
    s.add(request("a", prompt=10))
    step(s)
    s.add(request("b", prompt=10))
    assert names(step(s))["b"] == 2
    assert (s.prefix_queries, s.prefix_hits) == (20, 8)


def test_a_request_that_found_no_room_is_admitted_as_soon_as_its_beginning_is_computed_by_another():
    s = scheduler(blocks=8, budget=8, caching=True)
    s.add(request("first", prompt=20))
    s.add(request("same", prompt=20))
    assert [names(step(s)) for _ in range(3)] == [{"first": 8}, {"first": 8}, {"first": 4, "same": 4}]


def test_a_request_that_found_no_room_is_admitted_as_soon_as_another_has_ended():
    s = scheduler(blocks=6)
    s.add(request("first", prompt=12))
    s.add(request("second", prompt=12, first_token=50))
    assert [names(step(s)) for _ in range(5)] == [{"first": 12}, *[{"first": 1}] * 3, {"second": 12}]


def test_a_request_that_wants_its_prompts_logprobs_computes_all_of_it():
    s = scheduler(caching=True)
    s.add(request("a", prompt=10))
    step(s)
    wants = request("b", prompt=10)
    wants.sampling = SamplingParams(max_tokens=4, prompt_logprobs=0)
    s.add(wants)
    assert names(step(s))["b"] == 10


@settings(max_examples=150, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(
            st.integers(0, 6),  # steps before it
            st.integers(1, 20),  # prompt
            st.integers(1, 8),  # answer
            st.booleans(),  # shares a prefix
            st.booleans(),  # aborted in the middle
            st.integers(0, 2),  # priority
            st.integers(1, 3),  # choices
        ),
        min_size=1,
        max_size=12,
    ),
    slots=st.integers(1, 4),
    budget=st.integers(4, 20),
    blocks=st.integers(14, 30),  # the longest request needs 14 blocks of 2
    caching=st.booleans(),
    groups=st.integers(1, 3),
)
def test_nothing_starves_and_no_block_is_lost_whatever_arrives_and_leaves(
    arrivals, slots, budget, blocks, caching, groups
):
    common = {"blocks": blocks, "block_size": 2, "caching": caching, "groups": groups}
    s = scheduler(slots=slots, budget=budget, beside=max(1, budget // 4), **common)
    everything, leaving = [], []
    for number, (steps, prompt, answer, shared, leaves, priority, count) in enumerate(arrivals):
        for _ in range(steps):
            step(s)
        arrived = choices(
            *(f"{number}-{i}" for i in range(count)),
            prompt=prompt,
            answer=answer,
            first_token=0 if shared else 100 * number,
            priority=priority,
        )
        for choice in arrived:
            s.add(choice)
        everything += arrived
        leaving += arrived[: int(leaves)]
    # Alone and in order they would need this many steps; together it must not take longer than a few times that.
    alone = sum(-(-r.max_len // max(1, budget // 4)) + r.max_len for r in everything)
    for count in range(4 * alone):
        step(s)
        for gone in [r for r in leaving if count == 3 and (r in s.running or r in s.waiting)]:
            s.remove(gone)
            check_blocks(s)
        if not s.running and not s.waiting:
            break
    assert not s.running
    assert not s.waiting
    assert s.pools.owned == 0
    for ended in everything:
        if ended not in leaving or len(ended.token_ids) == ended.max_len:
            assert len(ended.token_ids) == ended.max_len
            assert ended.token_ids[len(ended.prompt.ids) :] == list(range(len(ended.prompt.ids), ended.max_len))


@settings(max_examples=40, deadline=None)
@given(prompts=st.lists(st.integers(1, 60), min_size=1, max_size=10), budget=st.integers(8, 16))
def test_a_running_stream_gets_a_token_in_every_step_while_memory_lasts(prompts, budget):
    s = scheduler(blocks=1000, budget=budget, beside=max(1, budget // 4), slots=8)
    s.add(request("stream", prompt=3, answer=500))
    while s.waiting or s.running[0].uncomputed > 1:
        step(s)
    for number, prompt in enumerate(prompts):
        s.add(request(str(number), prompt, first_token=1000 * (number + 1)))
        assert names(step(s))["stream"] == 1
    for _ in range(20):
        assert names(step(s))["stream"] == 1
