import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.engine_driver import VOCAB, finish, gather, prompt, submit
from wenxin_runtime.engine.engine import Engine


def assert_idle(engine: Engine) -> None:
    stats = engine.step().stats
    assert (stats.waiting, stats.running, stats.kv_blocks_used, stats.batch_tokens) == (0, 0, 0, 0)


def test_every_request_ends_once_and_leaves_nothing_behind(make):
    engine = make()
    answers = finish(engine, [submit(str(n), prompt(5 * n + 1, n), max_tokens=n + 1) for n in range(10)])
    for n in range(10):
        assert len(answers[str(n)].token_ids) == n + 1
        assert answers[str(n)].last.finish_reason == "length"
        assert [delta.finish_reason for delta in answers[str(n)].deltas[:-1]] == [None] * n
    assert_idle(engine)


WORK = st.lists(
    st.tuples(
        st.integers(1, 120),  # prompt length
        st.integers(0, 2),  # which of three prefixes it starts with
        st.integers(1, 12),  # answer length
        st.sampled_from(
            [{}, {"temperature": 0.9, "seed": 3}, {"temperature": 1.0, "seed": 4, "top_p": 0.8, "top_k": 50}]
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=15, deadline=None)
@given(
    work=WORK,
    slots=st.integers(1, 6),
    budget=st.integers(6, 200),
    blocks=st.integers(9, 60),  # the longest request needs 9; fewer than all need makes preemptions
    caching=st.booleans(),
)
def test_an_answer_does_not_depend_on_batch_chunks_preemption_or_prefix_hits(
    make, work, slots, budget, blocks, caching
):
    prefixes = [prompt(40, seed) for seed in (1, 2, 3)]
    submits = [
        submit(str(n), (prefixes[which] + prompt(120, n))[:length], max_tokens=answer, **sampling)
        for n, (length, which, answer, sampling) in enumerate(work)
    ]
    together = finish(
        make(blocks=blocks, slots=slots, budget=budget, beside=max(1, budget // 4), caching=caching), submits
    )
    for message in submits:
        alone = finish(make(caching=False), [message])[message.request_id]
        assert together[message.request_id].token_ids == alone.token_ids


def test_preemption_happens_and_changes_nothing(make):
    submits = [submit(str(n), prompt(30, n), max_tokens=40) for n in range(4)]
    crowded = make(blocks=10, caching=False)
    assert {k: a.token_ids for k, a in finish(crowded, submits).items()} == {
        k: a.token_ids for k, a in finish(make(), submits).items()
    }
    assert crowded.step().stats.preemptions_total > 0


def test_a_prefix_hit_is_reported_with_the_first_delta_only(make):
    engine = make()
    asked = prompt(70)
    first = finish(engine, [submit("a", asked)])["a"]
    second = finish(engine, [submit("b", asked)])["b"]
    assert [delta.cached_tokens for delta in first.deltas] == [0] * 8
    assert [delta.cached_tokens for delta in second.deltas] == [64] + [0] * 7
    assert second.token_ids == first.token_ids
    stats = engine.step().stats
    assert (stats.prefix_cache_queries_total, stats.prefix_cache_hits_total) == (140, 64)


def test_another_cache_salt_is_no_hit(make):
    engine = make()
    finish(engine, [submit("a", prompt(70), salt="one")])
    assert finish(engine, [submit("b", prompt(70), salt="two")])["b"].deltas[0].cached_tokens == 0


def test_an_abort_frees_the_blocks_before_the_next_step_and_says_nothing_more(make):
    engine = make(slots=1)
    engine.submit(submit("running", prompt(40), max_tokens=100))
    engine.submit(submit("waiting", prompt(40, 1), max_tokens=100))
    engine.step()
    engine.abort(["running", "waiting", "never heard of"])
    assert not engine.busy
    outputs = engine.step()
    assert outputs.deltas == ()
    assert outputs.stats.kv_blocks_used == 0


def test_a_stream_gets_a_token_in_every_step_while_a_long_prompt_is_computed(make):
    engine = make(budget=40, beside=10)
    engine.submit(submit("stream", prompt(5), max_tokens=200))
    engine.step()
    engine.submit(submit("long", prompt(300)))
    steps_until_long_answers = 0
    while True:
        outputs = engine.step()
        steps_until_long_answers += 1
        assert outputs.stats.batch_tokens <= 11
        assert "stream" in [delta.request_id for delta in outputs.deltas]
        if len(outputs.deltas) == 2:
            break
    assert steps_until_long_answers == 30


def test_eos_ends_with_stop_and_is_the_last_token(make):
    greedy = finish(make(), [submit("a", prompt(20), max_tokens=10)])["a"].token_ids
    engine = make(eos=(greedy[4],))
    answer = finish(engine, [submit("a", prompt(20), max_tokens=10, ignore_eos=False)])["a"]
    end = greedy.index(greedy[4])
    assert answer.token_ids == greedy[: end + 1]
    assert (answer.last.finish_reason, answer.last.stop_token_id) == ("stop", greedy[4])
    ignoring = finish(engine, [submit("b", prompt(20), max_tokens=10)])["b"]
    assert (ignoring.token_ids, ignoring.last.finish_reason) == (greedy, "length")


def test_a_stop_token_ends_even_where_eos_is_ignored(make):
    greedy = finish(make(), [submit("a", prompt(20))])["a"].token_ids
    answer = finish(make(), [submit("a", prompt(20), stop_token_ids=(greedy[2],))])["a"]
    assert answer.last.stop_token_id == greedy[2]


def test_min_tokens_keeps_the_end_away(make):
    greedy = finish(make(), [submit("a", prompt(20))])["a"].token_ids
    answer = finish(make(eos=(greedy[0],)), [submit("a", prompt(20), ignore_eos=False, min_tokens=5)])["a"]
    assert greedy[0] not in answer.token_ids[:5]
    assert len(answer.token_ids) >= 5


def test_the_models_length_ends_an_answer(make):
    answer = finish(make(model_len=50), [submit("a", prompt(45), max_tokens=100)])["a"]
    assert (len(answer.token_ids), answer.last.finish_reason) == (5, "length")


def test_max_tokens_0_scores_the_prompt_and_writes_nothing(make):
    answer = finish(make(), [submit("a", prompt(45), max_tokens=0, prompt_logprobs=1)])["a"]
    assert len(answer.deltas) == 1
    assert (answer.token_ids, answer.last.finish_reason) == ([], "length")
    assert len(answer.last.prompt_logprobs) == 45


def test_prompt_logprobs_do_not_depend_on_chunks_or_preemption(make):
    wanted = [submit(str(n), prompt(100, n), max_tokens=30, prompt_logprobs=2, logprobs=2) for n in range(3)]
    whole, chunked = finish(make(), wanted), finish(make(budget=7, blocks=10), wanted)
    for message in wanted:
        a, b = whole[message.request_id], chunked[message.request_id]
        for mine, other in zip(
            [*a.deltas[0].prompt_logprobs[1:], *a.logprobs],
            [*b.deltas[0].prompt_logprobs[1:], *b.logprobs],
            strict=True,
        ):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _ in mine.top] == [token for token, _ in other.top]
    assert len(b.deltas[0].prompt_logprobs) == 100


def test_a_seed_repeats_its_answer_and_unseeded_requests_differ(make):
    engine = make()
    hot = {"temperature": 1.5, "max_tokens": 20}
    seeded = [submit(f"s{n}", prompt(20), seed=11, **hot) for n in range(2)]
    unseeded = [submit(f"u{n}", prompt(20), **hot) for n in range(2)]
    answers = {name: answer.token_ids for name, answer in finish(engine, seeded + unseeded).items()}
    assert answers["s0"] == answers["s1"]
    assert answers["u0"] != answers["u1"]
    assert {name: a.token_ids for name, a in finish(make(), seeded + unseeded).items()} == answers


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_end_their_own_request_only(make, poison, monkeypatch):
    engine = make()
    fine = finish(engine, [submit("fine", prompt(20))])["fine"].token_ids
    logits = engine._runner._model.logits

    def poisoned(hidden):
        found = logits(hidden)
        if len(found) == 2:
            found[0] = poison
        return found

    monkeypatch.setattr(engine._runner._model, "logits", poisoned, raising=False)
    answers = finish(engine, [submit("hurt", prompt(20, 1)), submit("fine", prompt(20))])
    assert answers["hurt"].last.finish_reason == "error"
    assert "not finite" in answers["hurt"].last.error
    assert answers["fine"].token_ids == fine
    assert_idle(engine)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (submit("a", []), "the prompt is empty"),
        (submit("a", prompt(512)), "the prompt has 512 tokens; with the answer there is room for 512"),
        (submit("a", [VOCAB]), "outside the vocabulary"),
        (submit("a", [-1]), "outside the vocabulary"),
        (submit("a", [5], logit_bias={VOCAB + 1: 1.0}), "outside the vocabulary"),
        (submit("a", [5], stop_token_ids=(VOCAB,)), "outside the vocabulary"),
    ],
)
def test_what_cannot_be_computed_ends_at_once_and_disturbs_nothing(make, message, said):
    engine = make()
    answers = finish(engine, [submit("fine", prompt(20)), message])
    assert answers["a"].last.finish_reason == "error"
    assert said in answers["a"].last.error
    assert len(answers["fine"].token_ids) == 8


def test_a_request_id_in_use_is_refused(make):
    engine = make()
    engine.submit(submit("a", prompt(5)))
    engine.submit(submit("a", prompt(6)))
    assert "in use" in engine.step().deltas[0].error


def test_counters_add_up(make):
    engine = make(caching=False)
    answers = {}
    for n in range(3):
        engine.submit(submit(str(n), prompt(10 + n), max_tokens=4))
    while engine.busy:
        outputs = engine.step()
        gather(outputs, answers)
        assert outputs.stats.running + outputs.stats.waiting <= 3
        assert outputs.stats.forward_seconds > 0
    assert outputs.stats.prompt_tokens_total == 10 + 11 + 12
    assert outputs.stats.generation_tokens_total == 12
