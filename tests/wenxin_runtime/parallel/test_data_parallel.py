"""Groups of ranks as processes against one process: the same tokens and logprobs, whatever a group runs out of."""

import functools
import math

import pytest

from tests.wenxin_runtime.engine_driver import Answer, finish, gather, submit
from tests.wenxin_runtime.models import peer
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.startup import start
from wenxin_runtime.parallel.team import assembled

DENSE = functools.partial(peer.make, num_attention_heads=8, head_dim=8, use_bias=True)
MOE = functools.partial(peer.make_moe, use_bias=True)
# A small cache forces preemptions, a small budget chunked prefill; 24 blocks hold one longest sequence.
TIGHT = {"max_model_len": 96, "block_size": 4, "max_num_batched_tokens": 24, "max_num_seqs": 6}
BLOCKS = 24
BLOCK_BYTES = {DENSE: 1024, MOE: 3072}  # layers * 4 tokens * keys and values * 2 heads * head_dim * 4 bytes
SHARED = list(range(40, 60))


def configured(directory, **flags) -> RuntimeConfig:
    return RuntimeConfig(model_dir=str(directory), device="cpu", cpu_threads=1, **TIGHT, **flags)


def answers(engine: Engine) -> dict[str, Answer]:
    wave = [submit(f"a{i}", SHARED + list(range(3 + i, 20 + 3 * i)), logprobs=2, max_tokens=24) for i in range(4)]
    wave.append(submit("b0", range(70, 90), siblings=("b1", "b2"), temperature=1.0, seed=3, logprobs=1, max_tokens=9))
    found = finish(engine, wave)
    for i in range(3):
        engine.submit(submit(f"cancelled{i}", SHARED, max_tokens=50))
    gather(engine.step(), found)
    gather(engine.step(), found)
    engine.abort(["cancelled0", "cancelled1", "cancelled2"])
    for i in range(3):
        found.pop(f"cancelled{i}", None)
    drawn = submit("drawn", SHARED, temperature=1.0, seed=7, top_p=0.9, logprobs=1, prompt_logprobs=1)
    scored = submit("scored", range(5, 70), logprobs=1, prompt_logprobs=2)
    found |= finish(engine, [drawn, scored, submit("again", SHARED, logprobs=2)])
    return found | finish(engine, [submit("single", [*SHARED, 9], logprobs=2)])  # beside which the others are idle


def assert_same(one: Answer, other: Answer) -> None:
    assert other.token_ids == one.token_ids
    prompts = [[entry for entry in answer.deltas[0].prompt_logprobs or () if entry] for answer in (one, other)]
    for a, b in [*zip(one.logprobs, other.logprobs, strict=True), *zip(*prompts, strict=True)]:
        assert math.isclose(a.logprob, b.logprob, abs_tol=1e-4)
        assert a.rank == b.rank


@pytest.mark.parametrize(
    ("make", "flags"),
    [
        (DENSE, {"data_parallel_size": 2}),
        (DENSE, {"data_parallel_size": 2, "tensor_parallel_size": 2, "async_scheduling": True}),
        (MOE, {"data_parallel_size": 2}),
        (MOE, {"data_parallel_size": 2, "tensor_parallel_size": 2, "enable_expert_parallel": True}),
    ],
    ids=["dense D2", "dense D2 T2 asynchronous", "moe D2", "moe D2 T2 EP"],
)
def test_groups_give_the_tokens_and_logprobs_of_one_process(tmp_path, make, flags):
    make(tmp_path)
    alone = answers(start(configured(tmp_path, kv_cache_memory_bytes=100 * BLOCK_BYTES[make])).engine)
    of_one_rank = BLOCKS * BLOCK_BYTES[make] // flags.get("tensor_parallel_size", 1)
    config = configured(tmp_path, kv_cache_memory_bytes=of_one_rank, **flags)
    with assembled(config, lambda lost: pytest.fail(str(lost))) as team:
        started = start(config, team=team)
        together = answers(started.engine)
        stats = started.engine.step().stats
    assert (stats.kv_blocks_total, stats.kv_blocks_used) == (2 * BLOCKS, 0)
    assert stats.preemptions_total
    assert (started.ready.kv_blocks, started.ready.max_model_len) == (2 * BLOCKS, 4 * BLOCKS)
    assert together.keys() == alone.keys()
    for name, answer in alone.items():
        assert_same(answer, together[name])
