"""Ranks as processes over gloo against one process: the same tokens, the same logprobs."""

import functools
import math

import pytest

from tests.wenxin_runtime.engine_driver import Answer, finish, gather, submit
from tests.wenxin_runtime.models import peer
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.startup import start
from wenxin_runtime.parallel.team import assembled

MODELS = {
    "dense": functools.partial(peer.make, num_attention_heads=8, head_dim=8, use_bias=True),
    "dense-untied": functools.partial(peer.make, tie_word_embeddings=False),
    "moe": functools.partial(peer.make_moe, use_bias=True),
}
# 40 blocks of four tokens: layers * 4 * keys and values * 2 heads * head_dim * 4 bytes each.
KV_BYTES = {"dense": 40 * 1024, "dense-untied": 40 * 2048, "moe": 40 * 3072}
# A small cache forces preemptions, a small budget chunked prefill.
TIGHT = {"max_model_len": 96, "block_size": 4, "max_num_batched_tokens": 24, "max_num_seqs": 4}


def answers(directory, size: int, **flags) -> dict[str, Answer]:
    config = RuntimeConfig(
        model_dir=str(directory), device="cpu", cpu_threads=1, tensor_parallel_size=size, **TIGHT, **flags
    )
    with assembled(config, lambda lost: pytest.fail(str(lost))) as team:
        engine = start(config, team=team).engine
        shared = list(range(40, 60))
        wave = [submit(f"a{i}", shared + list(range(3 + i, 20 + 3 * i)), logprobs=2, max_tokens=24) for i in range(4)]
        found = finish(engine, wave)
        assert engine.step().stats.preemptions_total
        engine.submit(submit("cancelled", shared, max_tokens=50))
        gather(engine.step(), found)
        engine.abort(["cancelled"])
        found.pop("cancelled", None)
        drawn = submit("drawn", shared, temperature=1.0, seed=7, top_p=0.9, logprobs=1, prompt_logprobs=1)
        return found | finish(engine, [drawn, submit("again", shared, logprobs=2)])


@pytest.mark.parametrize(
    ("model", "size", "flags"),
    [
        ("dense", 4, {}),
        ("dense-untied", 2, {"enable_prefix_caching": False}),
        ("moe", 2, {}),
        ("moe", 4, {"enable_expert_parallel": True}),
    ],
    ids=str,
)
def test_ranks_give_the_tokens_and_logprobs_of_one_process(tmp_path, model, size, flags):
    MODELS[model](tmp_path)
    alone = answers(tmp_path, 1, kv_cache_memory_bytes=KV_BYTES[model])
    together = answers(tmp_path, size, kv_cache_memory_bytes=KV_BYTES[model] // min(size, 2), **flags)
    assert together.keys() == alone.keys()
    for name, answer in alone.items():
        assert together[name].token_ids == answer.token_ids, name
        for one, other in zip(answer.logprobs, together[name].logprobs, strict=True):
            assert math.isclose(one.logprob, other.logprob, abs_tol=1e-4)
            assert one.rank == other.rank
