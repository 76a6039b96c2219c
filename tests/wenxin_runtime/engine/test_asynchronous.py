"""Launching ahead of what is known changes when tokens come, and nothing else."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.engine_driver import MOST_STEPS, VOCAB, Answer, engine_of, finish, gather, prompt, submit
from wenxin_runtime.engine import transfer
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.runner import Runner
from wenxin_runtime.ipc import Submit


class EvenThenNothing:
    """Even tokens only; after four of them none at all, as if the logits were no numbers."""

    finished = False
    problem = None

    def __init__(self) -> None:
        self.left = 4

    def fill(self, bitmask) -> bool:
        bitmask[:] = np.int32(0x55555555) if self.left else 0
        return True

    def advance(self, token_id: int) -> None:
        assert token_id % 2 == 0
        self.left -= 1


class Dooming:
    """Binds the requests that are named so."""

    def __call__(self, message: Submit) -> EvenThenNothing | None:
        return EvenThenNothing() if message.request_id.startswith("doomed") else None

    def compiling(self, _: Submit) -> None:
        return None


def check_blocks(engine: Engine) -> None:
    scheduler = engine._scheduler
    requests = [*scheduler.running, *scheduler.waiting]
    for group, pool in enumerate(scheduler.pools):
        held = Counter(block for r in requests if r.group == group for block in r.table.blocks)
        assert pool.owned == len(held)
        assert pool.owned + pool.free == pool.total
        assert [held[block] for block in range(pool.total)] == pool._owners


def play(engine: Engine, script: list[tuple[int, Submit, int | None]]) -> dict[str, Answer]:
    """Submit each message at its step, abort it so many steps later, and step until nothing is left."""
    answers: dict[str, Answer] = {}
    aborts: dict[int, list[str]] = {}
    for step in range(MOST_STEPS):
        for at, message, lives in script:
            if at == step:
                engine.submit(message)
                answers |= {name: Answer() for name in message.request_ids}
                if lives is not None:
                    aborts.setdefault(step + lives, []).extend(message.request_ids)
        engine.abort(aborts.get(step, ()))
        gather(engine.step(), answers)
        check_blocks(engine)
        if not engine.busy and step >= max(at for at, _, _ in script):
            assert engine.step().deltas == ()
            return answers
    raise AssertionError(f"still busy after {MOST_STEPS} steps")


SAMPLING = st.sampled_from(
    [
        {},
        {"logprobs": 2},
        {"temperature": 0.9, "seed": 3, "logprobs": 1},
        {"temperature": 1.0, "seed": 4, "top_p": 0.8, "top_k": 50},
        {"temperature": 1.0, "seed": 5, "min_p": 0.01},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
        {"prompt_logprobs": 1},
        {"min_tokens": 3, "ignore_eos": False},
        {"ignore_eos": False},
    ]
)
ARRIVAL = st.tuples(
    st.integers(0, 5),  # the step it comes at
    st.integers(1, 90),  # prompt length
    st.integers(0, 1),  # which of two prefixes it starts with
    st.integers(0, 10),  # answer length
    st.integers(1, 3),  # choices
    st.integers(0, 1),  # priority
    st.none() | st.integers(0, 8),  # steps until it is aborted
    st.booleans(),  # whether a constraint ends it with an error
    SAMPLING,
)


@settings(max_examples=25, deadline=None)
@given(
    arrivals=st.lists(ARRIVAL, min_size=1, max_size=5),
    slots=st.integers(1, 6),
    budget=st.integers(6, 150),
    blocks=st.integers(8, 40),  # the longest request needs 7
    caching=st.booleans(),
    groups=st.integers(1, 3),
)
def test_an_asynchronous_engine_of_any_groups_answers_as_one_in_lockstep_whatever_arrives_and_leaves(
    make, arrivals, slots, budget, blocks, caching, groups
):
    script = []
    for number, (at, length, which, answer, choices, priority, lives, doomed, sampling) in enumerate(arrivals):
        name = f"doomed{number}" if doomed else str(number)
        ids = (prompt(40, which + 1) + prompt(90, number))[:length]
        most = max(answer, sampling.get("min_tokens", 0))
        siblings = [f"{name}-{i}" for i in range(1, choices)]
        message = submit(name, ids, priority=priority, siblings=siblings, max_tokens=most, **sampling)
        script.append((at, message, lives))
    common = {"slots": slots, "budget": budget, "beside": max(1, budget // 4), "blocks": blocks, "caching": caching}
    common |= {"eos": range(0, VOCAB, 7), "constrain": Dooming()}
    ahead = play(make(asynchronous=True, groups=groups, **common), script)
    lockstep = play(make(**common), script)
    for _, message, lives in script:
        for name in message.request_ids:
            assert_same(ahead[name], lockstep[name], aborted=lives is not None)


def assert_same(a: Answer, b: Answer, *, aborted: bool) -> None:
    both = min(len(a.token_ids), len(b.token_ids))
    assert a.token_ids[:both] == b.token_ids[:both]
    assert [entry.logprob for entry in a.logprobs[:both]] == pytest.approx(
        [entry.logprob for entry in b.logprobs[:both]], abs=1e-4
    )
    if aborted:  # the two hear of it at different tokens
        return
    assert len(a.token_ids) == len(b.token_ids)
    assert (a.last.finish_reason, a.last.stop_token_id, a.last.error) == (
        b.last.finish_reason,
        b.last.stop_token_id,
        b.last.error,
    )
    mine, theirs = a.deltas[0].prompt_logprobs, b.deltas[0].prompt_logprobs
    assert (mine is None) == (theirs is None)
    if mine and theirs:
        assert [e.logprob for e in mine[1:]] == pytest.approx([e.logprob for e in theirs[1:]], abs=1e-4)


def test_the_next_forward_is_launched_before_the_tokens_of_the_last_one_are_read(make, monkeypatch):
    events = []

    class Watched(Runner):
        def launch(self, plan, flight):
            events.append(f"launch {sum(chunk.count for chunk in plan)}")
            return super().launch(plan, flight)

    get = transfer.Readback.get
    monkeypatch.setattr(transfer.Readback, "get", lambda readback: events.append("read") or get(readback))
    engine = make(asynchronous=True, runner_type=Watched)
    finish(engine, [submit("a", prompt(20), max_tokens=3)])
    # Nothing is in flight at first; the last token is known to be the last, so nothing is launched beside it.
    assert events == ["launch 20", "read", "launch 1", "read", "launch 1", "read", "launch 0", "read"]


def test_a_step_brings_the_tokens_of_the_one_before(make):
    engine = make(asynchronous=True)
    engine.submit(submit("a", prompt(20), max_tokens=2))
    assert [len(engine.step().deltas) for _ in range(3)] == [0, 1, 1]
    assert not engine.busy


def test_an_ending_that_nobody_could_foresee_wastes_one_row_and_frees_everything(make):
    greedy = finish(make(), [submit("a", prompt(20))])["a"].token_ids
    engine = make(asynchronous=True, eos=(greedy[2],))
    engine.submit(submit("a", prompt(20), ignore_eos=False))
    rows = []
    while engine.busy:
        outputs = engine.step()
        rows.append(outputs.stats.batch_tokens)
    assert rows == [20, 1, 1, 1]  # the last of them computes what follows the end
    assert outputs.deltas[0].finish_reason == "stop"
    assert outputs.stats.kv_blocks_used == 0
    assert engine.step().deltas == ()


def test_a_request_id_may_be_used_again_while_the_token_of_its_aborted_predecessor_is_in_flight(make):
    wanted = finish(make(), [submit("a", prompt(20, 1))])["a"].token_ids
    engine = make(asynchronous=True)
    engine.submit(submit("a", prompt(20)))
    engine.step()
    engine.abort(["a"])
    assert finish(engine, [submit("a", prompt(20, 1))])["a"].token_ids == wanted


def test_an_abort_frees_the_blocks_before_the_next_step_even_with_a_token_in_flight(make):
    engine = make(asynchronous=True)
    engine.submit(submit("a", prompt(100), max_tokens=50))
    engine.step()
    engine.step()
    engine.abort(["a"])
    outputs = engine.step()
    assert (outputs.deltas, outputs.stats.kv_blocks_used) == ((), 0)


def test_blocks_of_a_request_that_ended_may_go_to_another_at_once(make):
    """The row computed in vain writes to them in an earlier step than their next owner does."""
    wanted = {name: answer.token_ids for name, answer in finish(make(), requests(("a", "b", "c"))).items()}
    engine = make(asynchronous=True, blocks=5, caching=False, slots=1)
    assert {name: answer.token_ids for name, answer in finish(engine, requests(("a", "b", "c"))).items()} == wanted


@pytest.mark.parametrize(("wanted", "asynchronous"), [(None, False), (False, False), (True, True)])
def test_a_cpu_is_in_lockstep_unless_told_otherwise(tiny, wanted, asynchronous):
    engine = engine_of(tiny, max_model_len=64, async_scheduling=wanted)
    engine.submit(submit("a", prompt(20), max_tokens=2))
    assert [len(engine.step().deltas) for _ in range(2)] == ([0, 1] if asynchronous else [1, 1])


def test_what_an_asynchronous_engine_wrote_is_found_by_the_next_turn(make):
    engine = make(asynchronous=True)
    said = finish(engine, [submit("a", prompt(20), max_tokens=45)])["a"].token_ids
    again = finish(engine, [submit("b", [*prompt(20), *said, 5])])["b"]
    assert again.deltas[0].cached_tokens == 64  # all full blocks of the 64 tokens that were computed


def requests(names: tuple[str, ...]) -> list[Submit]:
    return [submit(name, prompt(60, number), max_tokens=20) for number, name in enumerate(names)]
