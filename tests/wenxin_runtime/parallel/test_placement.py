from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenxin_runtime.parallel.placement import NOBODY, Placement, Slots, imbalance, place


@st.composite
def layers(draw) -> tuple[Placement, list[int]]:
    ranks, own, copies = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    slots = Slots(ranks * own, ranks, copies)
    loads = st.lists(st.integers(0, 1000), min_size=slots.experts, max_size=slots.experts)
    before = place(draw(loads), Placement.without_copies(slots))
    return before, draw(loads)


@given(layers())
def test_every_expert_has_its_home_and_no_rank_has_one_twice(layer):
    before, loads = layer
    after = place(loads, before)
    slots = after.slots
    taken = Counter(slot for found in after.found_at() for slot in found)
    assert set(taken.values()) == {1}
    assert max(taken) < slots.total
    for expert, found in enumerate(after.found_at()):
        ranks = [slot // slots.per_rank for slot in found]
        assert ranks[0] == expert // slots.own
        assert found[0] % slots.per_rank < slots.own
        assert len(set(ranks)) == len(ranks) <= slots.most


@given(layers())
def test_copies_never_make_the_busiest_rank_busier(layer):
    before, loads = layer
    alone = Placement.without_copies(before.slots).expected_loads(loads)
    shared = place(loads, before).expected_loads(loads)
    assert sum(shared) == pytest.approx(sum(alone))
    assert max(shared) <= max(alone) * (1 + 1e-9)


@given(layers())
def test_the_same_loads_give_the_same_placement_and_nothing_to_move(layer):
    before, loads = layer
    after = place(loads, before)
    assert place(loads, before) == after
    again = place(loads, after)
    assert again == after
    assert not any(again.newcomers(after, rank) for rank in range(after.slots.ranks))


@given(layers())
def test_only_copies_that_were_not_there_are_read(layer):
    before, loads = layer
    after = place(loads, before)
    for rank in range(after.slots.ranks):
        read = after.newcomers(before, rank)
        assert {expert for _, expert in read} == set(after.copies[rank]) - set(before.copies[rank]) - {NOBODY}
        assert all(after.copies[rank][slot - after.slots.own] == expert for slot, expert in read)


@given(layers(), st.data())
def test_the_slots_loads_add_up_to_the_experts(layer, data):
    before, _ = layer
    slot_loads = data.draw(st.lists(st.integers(0, 99), min_size=before.slots.total, max_size=before.slots.total))
    used = {slot for found in before.found_at() for slot in found}
    assert sum(before.expert_loads(slot_loads)) == sum(slot_loads[slot] for slot in used)


def test_an_expert_that_everybody_asks_is_computed_everywhere():
    slots = Slots(experts=8, ranks=4, copies=1)
    after = place([90, 10, 10, 10, 10, 10, 10, 10], Placement.without_copies(slots))
    assert after.copies == ((2,), (0,), (0,), (0,)), "and rank 0, which has room by now, helps rank 1"
    assert after.found_at()[0] == [0, 5, 8, 11]
    assert imbalance(Placement.without_copies(slots).expected_loads([90, *[10] * 7])) == 2.5
    assert imbalance(after.expected_loads([90, *[10] * 7])) == pytest.approx(42.5 / 40)


def test_even_loads_need_no_copies():
    slots = Slots(experts=8, ranks=4, copies=2)
    assert place([5] * 8, Placement.without_copies(slots)) == Placement.without_copies(slots)
    assert imbalance([0, 0]) == 1.0
