"""The arithmetic behind the published numbers."""

import asyncio
import itertools
import json
import time

import httpx
import pytest

from bench import environment, roofline
from bench.load import Bounds, Case, Mix, Outcome, Target, run
from bench.serve import Objective
from bench.streams import Stream, figures, percentile
from wenxin_runtime import fixture
from wenxin_runtime.fixture.shapes import SHAPES
from wenxin_runtime.weights.model_config import read_model_config

MIX = Mix(
    short_tokens=8, long_tokens=40, long_share=0.25, shared_prefixes=2, shared_tokens=16, shared_share=0.5,
    output_tokens=4,
)  # fmt: skip


@pytest.fixture
def config_of(tmp_path):
    def read(arch, size):
        (tmp_path / "config.json").write_text(json.dumps(SHAPES[arch][size]))
        return read_model_config(tmp_path)

    return read


def test_rates_count_from_the_request_and_decode_rates_from_the_first_token():
    found = figures([Stream(0.0, (1.0, 1.5, 2.0), (1, 2, 3)), Stream(0.0, (1.0, 1.5, 2.0), (1, 2, 3))])
    assert found.tokens_per_second == pytest.approx(3.0)
    assert found.decode_tokens_per_second == pytest.approx(4.0)
    assert (found.ttft_ms, found.itl_ms) == (1000, 500)


def test_a_percentile_is_a_value_that_occurred():
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, share) for share in (0.25, 0.5, 0.95, 1.0)] == [1.0, 2.0, 4.0, 4.0]


def test_a_step_of_a_dense_model_reads_each_matrix_once_and_each_sequence_its_own_cache(config_of):
    config = config_of("ernie4_5", "tiny")
    read = [roofline.step_bytes(config, rows=rows, context=10, weight_bytes=4, cache_bytes=4) for rows in (1, 2, 3)]
    attention, mlp = 64 * (128 + 2 * 64) + 128 * 64, 3 * 64 * 192
    assert read[0] == 4 * (3 * (attention + mlp) + 1536 * 64) + 4 * 10 * 3 * 2 * 2 * 32
    assert read[1] - read[0] == read[2] - read[1] == 4 * 10 * 3 * 2 * 2 * 32


def test_a_large_batch_reads_every_expert_and_one_row_only_those_it_goes_through(config_of):
    config = config_of("ernie4_5_moe", "21b-a3b")
    one, many = (roofline.step_bytes(config, rows=rows, context=0, weight_bytes=1, cache_bytes=1) for rows in (1, 4096))
    assert one == pytest.approx(3.35e9, rel=0.01)
    assert many == pytest.approx(21.8e9, rel=0.05)


def test_a_prompt_costs_two_operations_per_weight_and_token(config_of):
    config = config_of("ernie4_5", "0.3b")
    layers = 18 * (1024 * (2048 + 512) + 2048 * 1024 + 3 * 1024 * 3072)
    head, attention = 103424 * 1024, 4 * 18 * 16 * 128 * 128 * 129 / 2
    assert roofline.prefill_flops(config, 128) == 2 * (layers * 128 + head) + attention


def test_a_recording_notices_the_work_of_its_children_as_its_own_and_describes_no_machine():
    recording = environment.Recording(quick=True)
    facts = recording.facts()
    assert recording.best.read > 0 < recording.best.gemm
    assert facts["cores_taken_by_others"] >= 0
    assert {"commit", "dirty", "busy", "load_average", "cpu", "cores", "isa", "memory_gib"} <= facts.keys()
    assert "hostname" not in facts


def test_a_result_has_the_envelope_that_the_page_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    path = environment.write_result("mine_cpu", {"cores": 2}, [{"a": 1}], plan={"size": "tiny"}, benchmark="mine")
    assert json.loads(path.read_text()) == {
        "schema": 1,
        "benchmark": "mine",
        "environment": {"cores": 2},
        "plan": {"size": "tiny"},
        "results": [{"a": 1}],
    }


def test_requests_repeat_by_seed_mix_lengths_and_share_prefixes():
    first, again = (list(itertools.islice(MIX.requests("a", 1000), 400)) for _ in range(2))
    assert first == again != list(itertools.islice(MIX.requests("b", 1000), 400))
    starts = {}
    for request in first:
        starts.setdefault(request.prompt[:16], []).append(request)
        assert len(request.prompt) + request.output_tokens < MIX.most_tokens
    shared = sorted(len(group) for group in starts.values())[-2:]
    assert 0.4 < sum(shared) / len(first) < 0.6


def test_an_objective_wants_the_first_token_and_the_mean_gap():
    objective = Objective(ttft_ms=1000, itl_ms=300)
    assert objective.kept(Stream(0.0, (0.9, 1.0, 1.4), ()))
    assert not objective.kept(Stream(0.0, (1.1, 1.2, 1.3), ()))
    assert not objective.kept(Stream(0.0, (0.9, 1.0, 1.7), ()))


async def test_every_request_that_was_sent_has_an_outcome_whatever_the_server_does():
    answered = itertools.count()

    async def respond(request: httpx.Request) -> httpx.Response:
        number = next(answered)
        if number == 1:
            return httpx.Response(503)
        if number == 2:
            raise httpx.ReadError("gone")
        if number == 3:
            await asyncio.Event().wait()
        tokens = json.loads(request.content)["max_tokens"]
        return httpx.Response(200, text=_answer(tokens - (number == 4)))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://127.0.0.1") as client:
        outcomes = await run(
            Target(client, "m"), Case("poisson", 1000), Bounds(6, 1.0, 0.0), MIX.requests("a", 1000), "a"
        )
    assert [outcome.failure.split()[-1] if outcome.failure else None for outcome in outcomes] == [
        None, "503", "gone", "time", outcomes[4].failure.split()[-1], None,
    ]  # fmt: skip
    assert "tokens instead of" in outcomes[4].failure
    assert outcomes[0].cached_tokens == 3


async def test_a_closed_loop_keeps_its_number_of_requests_open_and_no_more():
    open_now, most = set(), 0

    async def respond(request: httpx.Request) -> httpx.Response:
        nonlocal most
        open_now.add(request)
        most = max(most, len(open_now))
        await asyncio.sleep(0)
        open_now.remove(request)
        return httpx.Response(200, text=_answer(json.loads(request.content)["max_tokens"]))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://127.0.0.1") as client:
        case, bounds = Case("closed", 3), Bounds(20, 30.0, 30.0)
        outcomes = await run(Target(client, "m"), case, bounds, MIX.requests("a", 1000), "a")
    assert (len(outcomes), most) == (20, 3)
    assert [outcome for outcome in outcomes if outcome.failure] == []


async def test_waiting_is_timed_from_when_a_request_was_due():
    async def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=_answer(json.loads(request.content)["max_tokens"]))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://127.0.0.1") as client:
        request = next(MIX.requests("a", 1000))
        outcome = await Target(client, "m").ask(request, time.perf_counter() - 5)
    assert isinstance(outcome, Outcome)
    assert outcome.stream.ttft > 5


def test_the_fixture_sizes_that_benchmarks_offer_exist():
    from bench import fixtures

    assert all(size in fixture.SHAPES[arch] for size, arch in fixtures.ARCHITECTURES.items())


def _answer(tokens: int) -> str:
    chunks = [{"choices": [{"token_ids": [7]}]} for _ in range(tokens)]
    usage = {"completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 3}}
    return "".join(f"data: {json.dumps(event)}\n\n" for event in [*chunks, {"choices": [], "usage": usage}])
