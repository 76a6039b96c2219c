"""The choices of one prompt: computed once, then on their own."""

import pytest

from tests.wenxin_runtime.engine_driver import finish, gather, prompt, submit
from wenxin_runtime.engine.runner import Runner

NAMES = ("a", "b", "c", "d")
HOT = {"temperature": 1.2, "seed": 5, "max_tokens": 12}


class Counting(Runner):
    """Counts how often each position was computed."""

    def __init__(self, model, kv_cache) -> None:
        super().__init__(model, kv_cache)
        self.positions: list[int] = []

    def launch(self, plan, flight):
        self.positions += [position for chunk in plan for position in range(chunk.start, chunk.end)]
        return super().launch(plan, flight)

    def prompt_tokens(self, length: int) -> int:
        return sum(position < length for position in self.positions)


def four(length: int = 100, **sampling):
    return submit("a", prompt(length), siblings=NAMES[1:], **sampling)


def alone(make, length: int = 100, **sampling) -> dict[str, list[int]]:
    """Each choice as a request of its own."""
    messages = [
        submit(name, prompt(length), **(sampling | {"seed": sampling["seed"] + number}))
        for number, name in enumerate(NAMES)
    ]
    return tokens(finish(make(caching=False), messages))


def tokens(answers) -> dict[str, list[int]]:
    return {name: answer.token_ids for name, answer in answers.items()}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("caching", [False, True])
def test_four_choices_compute_their_prompt_once(make, caching, asynchronous):
    engine = make(caching=caching, asynchronous=asynchronous, runner_type=Counting)
    answers = finish(engine, [four(**HOT)])
    # 96 tokens fill 6 blocks, which all four own; the other 4 are computed by each.
    assert engine._runner.prompt_tokens(100) == 96 + 4 * 4
    assert tokens(answers) == alone(make, **HOT)
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == 4


def test_the_blocks_of_the_prompt_are_owned_by_all_and_held_once(make):
    engine = make()
    engine.submit(four(max_tokens=20))
    engine.step()
    used = [engine.step().stats.kv_blocks_used for _ in range(3)]
    assert used[-1] == 6 + 4


def test_a_prompt_is_counted_once_however_many_choices_it_has(make):
    engine = make()
    finish(engine, [submit("before", prompt(70))])
    answers = finish(engine, [four(**HOT)])
    stats = engine.step().stats
    assert [answer.deltas[0].cached_tokens for answer in answers.values()] == [64] * 4
    assert stats.prompt_tokens_total == 170
    assert (stats.prefix_cache_queries_total, stats.prefix_cache_hits_total) == (170, 64)


def test_other_prompts_need_not_wait_for_the_choices(make):
    engine = make(budget=40)
    engine.submit(four(max_tokens=5))
    engine.submit(submit("other", prompt(10, 9), max_tokens=5))
    running = []
    for _ in range(3):
        engine.step()
        running.append([request.request_id for request in engine._scheduler.running])
    assert running[-1] == ["a", "other"]  # the third step has the end of the prompt and the other one
    engine.step()
    assert engine._scheduler.running[1].request_id == "b"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_when_the_choice_that_computes_the_prompt_goes_another_takes_over(make, asynchronous):
    wanted = alone(make, **HOT)
    del wanted["a"]
    engine = make(budget=40, asynchronous=asynchronous, caching=False)
    engine.submit(four(**HOT))
    engine.step()
    engine.abort(["a"])
    answers = {}
    while engine.busy:
        gather(engine.step(), answers)
    assert tokens(answers) == wanted


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("caching", [False, True])
def test_choices_that_are_preempted_write_what_they_would_have_written(make, caching, asynchronous):
    engine = make(blocks=9, caching=caching, asynchronous=asynchronous)
    hot = HOT | {"max_tokens": 40}
    assert tokens(finish(engine, [four(**hot)])) == alone(make, **hot)
    assert engine.step().stats.preemptions_total > 0


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_more_choices_than_slots_take_turns(make, slots):
    assert tokens(finish(make(slots=slots), [four(**HOT)])) == alone(make, **HOT)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 33])
def test_a_prompt_may_end_anywhere_in_a_block(make, length):
    assert tokens(finish(make(caching=False), [four(length, **HOT)])) == alone(make, length, **HOT)


def test_every_choice_gets_the_logprobs_of_the_prompt_which_are_computed_once(make):
    engine = make(budget=30, runner_type=Counting)
    answers = finish(engine, [four(prompt_logprobs=1, **HOT)])
    assert engine._runner.prompt_tokens(100) == 96 + 4 * 4
    (first, *others) = [answer.deltas[0].prompt_logprobs for answer in answers.values()]
    assert len(first) == 100
    assert others == [first] * 3


def test_a_prompt_of_one_token_has_logprobs_too(make):
    answer = finish(make(), [submit("a", [5], prompt_logprobs=1)])["a"]
    assert answer.deltas[0].prompt_logprobs == (None,)


def test_an_id_in_use_refuses_all_choices(make):
    engine = make()
    engine.submit(submit("c", prompt(5)))
    engine.submit(four())
    refused = [delta for delta in engine.step().deltas if delta.error]
    assert [delta.request_id for delta in refused] == list(NAMES)
    assert "request id c is in use" in refused[0].error
