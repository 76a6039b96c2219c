"""Engines of several processes whose experts get copies while they answer: the tokens are those of one process."""

import math
from pathlib import Path

import pytest

from tests.wenxin_runtime.engine_driver import Answer, finish, submit
from tests.wenxin_runtime.models import peer
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.startup import start
from wenxin_runtime.parallel import rebalancing
from wenxin_runtime.parallel.team import assembled

MOST_WAVES = 40


def wave(engine: Engine) -> dict[str, Answer]:
    prompts = [[7 + i, *range(40, 52 + 5 * i)] for i in range(5)]
    return finish(engine, [submit(f"a{i}", prompt, logprobs=1) for i, prompt in enumerate(prompts)])


def config_of(directory: Path, **flags) -> RuntimeConfig:
    limits = {"max_model_len": 96, "block_size": 4, "max_num_batched_tokens": 32, "max_num_seqs": 8}
    return RuntimeConfig(
        model_dir=str(directory), device="cpu", cpu_threads=1, kv_cache_memory_bytes=200 * 3072, **limits, **flags
    )


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("moe")
    peer.make_moe(directory, use_bias=True)
    return directory


@pytest.fixture(scope="module")
def alone(model_dir) -> dict[str, Answer]:
    return wave(start(config_of(model_dir)).engine)


@pytest.mark.parametrize(("tensor", "data", "copies"), [(2, 1, 4), (2, 2, 4)], ids=str)
def test_tokens_and_logprobs_stay_before_while_and_after_experts_get_copies(
    model_dir, alone, monkeypatch, tensor, data, copies
):
    monkeypatch.setattr(rebalancing, "EVERY_STEPS", 12)
    monkeypatch.setattr(rebalancing, "LEAST_CHOICES", 4)
    config = config_of(
        model_dir,
        tensor_parallel_size=tensor,
        data_parallel_size=data,
        enable_expert_parallel=True,
        num_redundant_experts=copies,
        async_scheduling=data > 1,
    )
    with assembled(config, lambda lost: pytest.fail(str(lost))) as team:
        engine = start(config, team=team).engine
        assert engine.step().stats.experts.rebalances_total == 0
        waves = [wave(engine)]
        while engine.step().stats.experts.rebalances_total < 2 and len(waves) < MOST_WAVES:
            waves.append(wave(engine))
        waves.append(wave(engine))
        experts = engine.step().stats.experts
    assert experts.rebalances_total >= 2
    assert experts.imbalance > 1
    assert len(experts.rows_by_rank) == tensor * data
    assert all(experts.rows_by_rank)
    for answers in waves:
        for name, answer in alone.items():
            assert answers[name].token_ids == answer.token_ids, name
            for one, other in zip(answer.logprobs, answers[name].logprobs, strict=True):
                assert math.isclose(one.logprob, other.logprob, abs_tol=1e-4)
