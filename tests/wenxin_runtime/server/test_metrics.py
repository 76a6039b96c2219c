"""What /metrics says, from a real server whose engine is scripted by the test."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from docs.generate import REFERENCE
from tests.wenxin_runtime.server.conftest import NAME, Running, Start
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.ipc import Delta, EngineStats, ExpertStats
from wenxin_runtime.telemetry import Metrics
from wenxin_runtime.timeline import Timeline

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ZERO = {
    "wenxin_queue_depth",
    "wenxin_requests_running",
    "wenxin_requests_total",
    "wenxin_rejections_total",
    "wenxin_http_responses_total",
    "wenxin_prompt_tokens_total",
    "wenxin_generation_tokens_total",
    "wenxin_time_to_first_token_seconds_count",
    "wenxin_inter_token_latency_seconds_count",
    "wenxin_time_per_output_token_seconds_count",
    "wenxin_request_duration_seconds_count",
    "wenxin_request_queue_seconds_count",
    "wenxin_request_prefill_seconds_count",
    "wenxin_request_decode_seconds_count",
    "wenxin_request_prompt_tokens_count",
    "wenxin_request_generation_tokens_count",
    "wenxin_step_seconds_count",
    "wenxin_step_tokens_count",
    "wenxin_step_sequences_count",
    "wenxin_kv_usage_ratio",
    "wenxin_preemptions_total",
    "wenxin_prefix_cache_queries_tokens_total",
    "wenxin_prefix_cache_hits_tokens_total",
    "wenxin_grammar_compilations_total",
    "wenxin_grammar_compile_seconds_total",
    "wenxin_expert_load_imbalance",
    "wenxin_expert_rebalances_total",
    "wenxin_expert_rows_total",
    "wenxin_load_seconds",
}


async def samples(server: Running) -> dict[str, dict[str, float]]:
    """Values by the sample's name, then by the values of its labels."""
    text = (await server.client.get("/metrics")).text
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[",".join(sample.labels.values())] = sample.value
    return found


async def test_every_metric_is_there_at_zero_before_the_first_request(start: Start) -> None:
    async with start(ready=False) as server:
        found = await samples(server)
    assert found.keys() >= AT_ZERO
    assert all(value == 0 for name in AT_ZERO for value in found[name].values())
    assert found["wenxin_slots"] == {"": 32}
    assert found["wenxin_requests_total"].keys() == {"stop", "length", "error", "abort"}
    assert found["wenxin_step_seconds_count"].keys() >= {"schedule", "forward", "sample"}
    assert found["wenxin_build_info"]
    assert not any(name.endswith("_created") for name in found)


async def test_the_reference_lists_exactly_what_a_server_exposes(start: Start) -> None:
    async with start() as server:
        text = (await server.client.get("/metrics")).text
    exposed = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in text_string_to_metric_families(text)
        if family.name.startswith("wenxin_")
    }
    # In the text format an info is a gauge of its full name.
    listed = set(re.findall(r"^\| `(wenxin_\w+)`", (REFERENCE / "metrics.md").read_text(), re.MULTILINE))
    assert exposed == {name for name in listed if not name.startswith("wenxin_operator_")}


async def test_the_guide_for_operations_names_only_metrics_that_exist() -> None:
    named = re.findall(r"`(?:rate\()?(wenxin_\w+)", (REFERENCE.parent / "observability.md").read_text())
    assert len(named) > 15
    listed = (REFERENCE / "metrics.md").read_text()
    assert [name for name in named if f"`{name}`" not in listed] == []


async def test_metrics_follow_requests_and_the_engines_reports(start: Start) -> None:
    async with start() as server:
        pending = server.posting("completions", prompt="hi")
        submit = await server.engine.submit()
        await server.engine.write(submit, 300, queue_seconds=0.25, prefill_seconds=2.0)
        await server.engine.write(submit, 301, 302, finish_reason="length", decode_seconds=3.0)
        await pending
        totals = {
            "prompt_tokens_total": 11,
            "generation_tokens_total": 12,
            "preemptions_total": 13,
            "prefix_cache_queries_total": 14,
            "prefix_cache_hits_total": 15,
            "grammars_total": 19,
            "grammar_seconds_total": 2.5,
        }
        experts = ExpertStats(imbalance=1.25, rebalances_total=16, rows_by_rank=(17, 18))
        await server.engine.step(batch_tokens=0, experts=experts, **totals)
        await until(lambda: server.server.service.engine.stats.preemptions_total == 13)
        found = await samples(server)
    assert found["wenxin_prompt_tokens_total"] == {"": 11}
    assert found["wenxin_generation_tokens_total"] == {"": 12}
    assert found["wenxin_preemptions_total"] == {"": 13}
    assert found["wenxin_prefix_cache_queries_tokens_total"] == {"": 14}
    assert found["wenxin_prefix_cache_hits_tokens_total"] == {"": 15}
    assert found["wenxin_grammar_compilations_total"] == {"": 19}
    assert found["wenxin_grammar_compile_seconds_total"] == {"": 2.5}
    assert found["wenxin_expert_load_imbalance"] == {"": 1.25}
    assert found["wenxin_expert_rebalances_total"] == {"": 16}
    assert found["wenxin_expert_rows_total"] == {"0": 17, "1": 18}
    assert found["wenxin_requests_total"]["length"] == 1
    assert found["wenxin_time_to_first_token_seconds_count"] == {"": 1}
    assert found["wenxin_inter_token_latency_seconds_count"] == {"": 2}
    assert found["wenxin_time_per_output_token_seconds_count"] == {"": 1}
    assert found["wenxin_request_duration_seconds_count"] == {"": 1}
    assert found["wenxin_request_queue_seconds_sum"] == {"": 0.25}
    assert found["wenxin_request_prefill_seconds_sum"] == {"": 2.0}
    assert found["wenxin_request_decode_seconds_sum"] == {"": 3.0}
    assert found["wenxin_request_prompt_tokens_sum"] == {"": len(submit.prompt_ids)}
    assert found["wenxin_request_generation_tokens_sum"] == {"": 3}
    assert found["wenxin_step_seconds_count"]["forward"] == 2
    assert found["wenxin_step_tokens_count"] == {"": 2}
    assert found["wenxin_step_sequences_count"] == {"": 2}
    assert found["wenxin_http_responses_total"]["200"] == 1
    assert found["wenxin_load_seconds"] == {"": 0.5}
    assert NAME in next(iter(found["wenxin_model_info"]))


async def test_refused_requests_are_counted_by_status_and_probes_are_not(start: Start) -> None:
    async with start() as server:
        await server.post("completions", prompt="hi", max_tokens=-1)
        await server.client.get("/v1/models/none")
        await server.client.delete("/v1/models")
        await server.client.get("/health")
        found = await samples(server)
    counted = {status: count for status, count in found["wenxin_http_responses_total"].items() if count}
    assert counted == {"400": 1, "404": 1, "405": 1}


async def test_a_step_of_many_streams_records_one_gap_for_all_that_waited_equally_long(start: Start) -> None:
    async with start(max_num_seqs=64) as server:
        pending = [server.posting("completions", prompt="hi", n=8) for _ in range(4)]
        names = [submit.request_id for submit in await server.engine.submits(32)]
        for _ in range(3):
            await server.engine.step(*(Delta(name, token_ids=(300,)) for name in names))
        await server.engine.step(*(Delta(name, finish_reason="length") for name in names))
        for each in pending:
            assert (await each).status_code == 200
        found = await samples(server)
    assert found["wenxin_inter_token_latency_seconds_count"] == {"": 64}
    assert found["wenxin_request_generation_tokens_sum"] == {"": 96}
    shares = sorted(found["wenxin_inter_token_latency_seconds_bucket"].values())
    assert all(value % 32 == 0 for value in shares), "the streams of a step waited equally long"


def timeline(**known: object) -> Timeline:
    return Timeline(prompt_tokens=7, accepted=100.0, **known)


async def test_a_sequence_that_the_server_ended_has_decoded_until_its_last_token() -> None:
    seen = timeline()
    assert seen.add(Delta("a", token_ids=(1,), queue_seconds=0.5, prefill_seconds=1.0), 102.0) is None
    assert seen.add(Delta("a", token_ids=(2, 3)), 104.0) == 2.0
    seen.end("stop", 105.0)
    assert (seen.seconds_to_first_token, seen.seconds_between_tokens, seen.decode_seconds) == (2.0, 1.0, 2.0)
    assert (seen.queue_seconds, seen.prefill_seconds, seen.tokens) == (0.5, 1.0, 3)


async def test_a_sequence_that_never_had_a_token_has_an_end_and_nothing_else() -> None:
    seen = timeline()
    seen.end("abort", 101.0)
    metrics = Metrics(slots=1)
    metrics.ended(seen)
    text = metrics.exposition().decode()
    assert "wenxin_request_duration_seconds_sum 1.0" in text
    assert 'wenxin_requests_total{finish_reason="abort"} 1.0' in text
    for name in ("decode_seconds", "queue_seconds"):
        assert f"wenxin_request_{name}_count 0.0" in text


async def test_an_end_is_recorded_only_of_what_has_ended() -> None:
    with pytest.raises(ValueError, match="not ended"):
        Metrics(slots=1).ended(timeline())


async def test_every_duration_of_a_step_is_a_phase() -> None:
    metrics = Metrics(slots=1)
    metrics.step(EngineStats(batch_tokens=5, batch_sequences=2, forward_seconds=0.5))
    text = metrics.exposition().decode()
    phases = [name for name in EngineStats.__struct_fields__ if name.endswith("_seconds")]
    for name in phases:
        assert f'wenxin_step_seconds_count{{phase="{name.removesuffix("_seconds")}"}} 1.0' in text
