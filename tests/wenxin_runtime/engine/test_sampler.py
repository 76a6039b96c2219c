"""Promises of the sampler: what a request asks for is what shapes its draw, and nothing else does."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from wenxin_runtime.engine import sampler
from wenxin_runtime.engine.sampler import Sampled, describe, uniform
from wenxin_runtime.engine.seen import Seen
from wenxin_runtime.engine.shaping import Row
from wenxin_runtime.ipc import SamplingParams

VOCABULARY = 5000


def row(*, seed: int = 0, prompt=(), output=(), ending=(), constraint=None, **params) -> Row:
    seen = Seen(prompt)
    for token_id in output:
        seen.add(token_id)
    return Row(SamplingParams(max_tokens=16, **params), seed, len(output), tuple(ending), seen, constraint)


def sample(logits: torch.Tensor, rows: list[Row]) -> list[Sampled]:
    return sampler.sample(logits, rows).read()


def random_logits(rows: int, seed: int = 0, vocabulary: int = VOCABULARY) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def drawn(logits: torch.Tensor, draws: int, **params) -> Counter:
    """Tokens drawn with seeds 0, 1, 2, ..."""
    rows = [row(seed=seed, **params) for seed in range(draws)]
    return Counter(each.token_id for each in sample(logits.expand(draws, -1), rows))


def test_greedy_takes_the_most_likely_token_of_each_row():
    logits = random_logits(4)
    assert [each.token_id for each in sample(logits, [row(temperature=0.0)] * 4)] == logits.argmax(dim=-1).tolist()


def test_a_draw_depends_on_its_own_seed_and_position_and_not_on_the_batch():
    logits = random_logits(8)
    rows = [row(seed=seed, output=range(seed), top_p=0.9 if seed % 2 else 1.0) for seed in range(8)]
    together = [each.token_id for each in sample(logits, rows)]
    alone = [sample(logits[i : i + 1], [rows[i]])[0].token_id for i in range(8)]
    assert together == alone


def test_another_position_of_the_same_seed_draws_anew():
    logits = random_logits(1)
    assert len({sample(logits, [row(seed=7, output=[1] * n)])[0].token_id for n in range(20)}) > 1


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1), st.integers(min_value=0, max_value=2**31))
def test_the_uniform_number_lies_in_the_half_open_unit_interval(seed, position):
    assert 0 <= uniform(seed, position) < 1


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125])
    counts = drawn(probabilities.log(), 4000)
    for token, probability in enumerate(probabilities.tolist()):
        spread = math.sqrt(4000 * probability * (1 - probability))
        assert abs(counts[token] - 4000 * probability) < 5 * spread


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.2, 3),
    top_k=st.one_of(st.just(0), st.integers(1, 2000)),
    top_p=st.floats(0.05, 1),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 0.5)),
)
def test_only_tokens_that_transformers_filters_would_keep_are_drawn(seed, temperature, top_k, top_p, min_p):
    logits = random_logits(1, seed)
    kept = TemperatureLogitsWarper(temperature)(None, logits.clone())
    if min_p > 0:
        kept = MinPLogitsWarper(min_p)(None, kept)
    if top_k > 0:
        kept = TopKLogitsWarper(top_k)(None, kept)
    if top_p < 1:
        kept = TopPLogitsWarper(top_p)(None, kept)
    allowed = set(kept[0].isfinite().nonzero()[:, 0].tolist())
    tokens = set(drawn(logits, 64, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    if len(allowed) == 1:
        assert tokens == allowed
    # transformers sums from the other end, so a token on the very edge of top_p may differ
    assert len(tokens - allowed) <= 1


@given(
    masses=st.lists(st.sampled_from([0.0, 0.0, 1e-6, 0.3, 1.0, 7.0]), min_size=1, max_size=700).filter(any),
    point=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_takes_the_place_where_the_running_sum_passes_its_point_and_none_without_mass(masses, point):
    mass = torch.tensor([masses], dtype=torch.float32)
    place = int(sampler._inverted(mass, torch.tensor([[point]], dtype=torch.float64)))
    assert mass[0, place] > 0
    sums = mass[0].double().cumsum(dim=0)
    slack = 1e-6 * sums[-1]
    assert sums[place] >= point * sums[-1] - slack
    assert sums[place] - mass[0, place] <= point * sums[-1] + slack


def test_top_p_reaches_beyond_the_candidates_when_the_distribution_is_flat():
    tokens = drawn(torch.zeros(1, VOCABULARY), 3000, top_p=0.999)
    assert len(tokens) > 1500


def test_top_p_keeps_the_mass_of_the_whole_vocabulary_in_view():
    """Half the mass is one token, half a flat tail: top_p 0.6 must reach into the tail."""
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 0] = math.log(VOCABULARY - 1)
    assert len(drawn(logits, 300, top_p=0.6)) > 10


def test_a_row_without_filters_keeps_its_tail_beside_a_row_with_filters():
    logits = torch.zeros(400, VOCABULARY)
    rows = [row(seed=seed) for seed in range(399)] + [row(seed=1, top_k=1)]
    assert len({each.token_id for each in sample(logits, rows)[:399]}) > 300


def test_the_repetition_penalty_equals_transformers():
    logits = random_logits(1)
    seen = [3, 9, 9, 100, 4999]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seen]), logits.clone()).argmax().item()
    got = sample(logits, [row(temperature=0.0, repetition_penalty=1.7, prompt=seen[:2], output=seen[2:])])
    assert got[0].token_id == expected


def test_presence_counts_once_and_frequency_counts_every_time_and_neither_counts_the_prompt():
    logits = torch.tensor([[2.0, 1.5, 0.0]])
    assert sample(logits, [row(temperature=0.0, presence_penalty=1.0, output=[0])])[0].token_id == 1
    assert sample(logits, [row(temperature=0.0, presence_penalty=0.4, output=[0, 0, 0])])[0].token_id == 0
    assert sample(logits, [row(temperature=0.0, frequency_penalty=0.4, output=[0, 0, 0])])[0].token_id == 1
    assert sample(logits, [row(temperature=0.0, presence_penalty=2.0, prompt=[0])])[0].token_id == 0


def test_logit_bias_forces_and_forbids():
    logits = random_logits(1)
    assert sample(logits, [row(temperature=0.0, logit_bias={17: 100.0})])[0].token_id == 17
    best = int(logits.argmax())
    assert sample(logits, [row(temperature=0.0, logit_bias={best: -100.0})])[0].token_id != best


class Only:
    """Allows these tokens."""

    finished = False
    problem = None

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed

    def fill(self, bitmask) -> bool:
        bitmask[:] = 0
        for token_id in self.allowed:
            bitmask[token_id // 32] |= np.uint32(1 << token_id % 32).astype(np.int32)
        return bool(self.allowed)

    def advance(self, token_id: int) -> None:
        raise AssertionError(f"the sampler never advances, not even with {token_id}")


@given(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5))
def test_a_constraint_leaves_the_tokens_of_its_bitmask_whatever_the_logits_say(allowed):
    logits = random_logits(3)
    rows = [row(temperature=0.0, constraint=Only(*allowed)), row(temperature=0.0), row(constraint=Only(*allowed))]
    first, free, drawn_one = sample(logits, rows)
    assert first.token_id == max(allowed, key=lambda token_id: logits[0, token_id])
    assert free.token_id == int(logits[1].argmax())
    assert drawn_one.token_id in allowed


def test_a_constraint_that_allows_everything_costs_nothing_and_one_that_allows_nothing_draws_nothing():
    logits = random_logits(2)
    found = sample(logits, [row(temperature=0.0, constraint=Only()), row(temperature=0.0, logit_bias={7: 1.0})])
    assert found[0].token_id == int(logits[0].argmax())

    class Nothing(Only):
        def fill(self, bitmask) -> bool:
            bitmask[:] = 0
            return True

    found = sample(logits, [row(temperature=0.0, constraint=Nothing()), row(temperature=0.0)])
    assert (found[0].token_id, found[1].token_id) == (None, int(logits[1].argmax()))


def test_a_full_sort_draws_what_the_shortcut_draws(monkeypatch):
    logits = random_logits(60)
    rows = [row(seed=i, temperature=1.3, top_p=0.5 + i / 130, min_p=0.0001 * (i % 3)) for i in range(60)]
    expected = [each.token_id for each in sample(logits, rows)]
    monkeypatch.setattr(sampler, "_CANDIDATES", ())
    assert [each.token_id for each in sample(logits, rows)] == expected


def test_penalties_of_many_rows_are_those_of_each_alone():
    logits = random_logits(20)
    rows = [
        row(
            temperature=0.0,
            prompt=range(i),
            output=[int(logits[i].argmax())] * (i % 4),
            presence_penalty=0.5 * (i % 3),
            frequency_penalty=0.7 * (i % 2),
            repetition_penalty=1 + 0.2 * (i % 5),
            logit_bias={i: 2.0} if i % 2 else {},
        )
        for i in range(20)
    ]
    together = [each.token_id for each in sample(logits, rows)]
    assert together == [sample(logits[i : i + 1], [rows[i]])[0].token_id for i in range(20)]


def test_an_answer_shorter_than_min_tokens_never_ends():
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    ending = (0, 2)
    assert sample(logits, [row(temperature=0.0, min_tokens=2, output=[1], ending=ending)])[0].token_id == 1
    assert sample(logits, [row(temperature=0.0, min_tokens=2, output=[1, 1], ending=ending)])[0].token_id == 0


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_logits_that_are_not_finite_end_their_own_row_only(poison):
    logits = random_logits(3)
    logits[1, 42] = poison
    sampled = sample(logits, [row(), row(top_p=0.5), row(temperature=0.0)])
    assert sampled[1].token_id is None
    assert None not in (sampled[0].token_id, sampled[2].token_id)


def test_the_models_logits_are_left_as_they_are():
    logits = random_logits(2)
    before = logits.clone()
    sample(logits, [row(logit_bias={1: 5.0}, repetition_penalty=2.0, prompt=[4]), row(top_p=0.5)])
    assert torch.equal(logits, before)


def test_logprobs_describe_the_distribution_before_penalties_and_filters():
    logits = random_logits(1)
    expected = logits.log_softmax(dim=-1)[0]
    got = sample(logits, [row(temperature=0.0, logprobs=3, logit_bias={17: 1000.0})])[0]
    assert got.token_id == 17
    assert got.logprobs is not None
    assert got.logprobs.logprob == pytest.approx(expected[17].item())
    assert got.logprobs.rank == int((expected > expected[17]).sum()) + 1
    values, indices = expected.topk(3)
    assert [token for token, _ in got.logprobs.top] == indices.tolist()
    assert [value for _, value in got.logprobs.top] == pytest.approx(values.tolist())


def test_each_row_gets_as_many_alternatives_as_it_asked_for():
    sampled = sample(random_logits(3), [row(logprobs=0), row(), row(logprobs=2)])
    assert [None if each.logprobs is None else len(each.logprobs.top) for each in sampled] == [0, None, 2]


def test_prompt_logprobs_rank_the_tokens_that_really_followed():
    logits = random_logits(5)
    found = describe(logits, logits.argsort(dim=-1, descending=True)[:, 4], top=5).read()
    assert [each.rank for each in found] == [5] * 5
    assert all(each.top[4][1] == pytest.approx(each.logprob) for each in found)
