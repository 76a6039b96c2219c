import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.wenxin_runtime.engine_driver import finish, submit
from wenxin_runtime import fixture
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine import kv_cache
from wenxin_runtime.engine.startup import start
from wenxin_runtime.errors import CheckpointError, ConfigError
from wenxin_runtime.weights import read_model_config

# tiny: 3 layers * 16 tokens * 2 (K and V) * 2 heads * 32 * 4 bytes
BLOCK_BYTES = 24_576


def config(directory, **flags) -> RuntimeConfig:
    return RuntimeConfig(model_dir=str(directory), device="cpu", cpu_threads=1, **flags)


def test_ready_says_what_is_served(tiny):
    progress = []
    ready = start(config(tiny, max_model_len=1000, max_num_seqs=2), lambda *report: progress.append(report)).ready
    assert (ready.max_model_len, ready.kv_blocks, ready.block_size) == (1000, 2 * 2 * 63, 16)
    assert (ready.device, ready.dtype, ready.parameters) == ("cpu", "float32", 283_072)
    assert ready.load_seconds > 0
    assert progress[-1] == (283_072 * 4, 283_072 * 4)


def test_the_cache_takes_the_bytes_it_is_given(tiny):
    ready = start(config(tiny, max_model_len=64, kv_cache_memory_bytes=10 * BLOCK_BYTES + 5)).ready
    assert ready.kv_blocks == 10


def test_a_length_that_the_cache_cannot_hold_is_refused_with_the_numbers(tiny):
    with pytest.raises(ConfigError) as caught:
        start(config(tiny, max_model_len=8000, kv_cache_memory_bytes=10 * BLOCK_BYTES))
    assert "--max-model-len 8000 needs a KV cache of 0.01 GiB" in str(caught.value)
    assert "enough for 160 tokens; lower --max-model-len or raise --kv-cache-memory-bytes" in str(caught.value)


def test_a_length_that_nobody_asked_for_shrinks_to_the_cache_and_is_logged(tiny, caplog):
    with caplog.at_level(logging.WARNING):
        ready = start(config(tiny, kv_cache_memory_bytes=10 * BLOCK_BYTES)).ready
    assert ready.max_model_len == 160
    assert "serving up to 160 tokens of the checkpoint's 8192" in caplog.text


def test_a_cache_without_room_for_one_block_is_refused(tiny):
    with pytest.raises(ConfigError, match="enough for 0 tokens"):
        start(config(tiny, kv_cache_memory_bytes=100))


def test_a_length_beyond_the_context_is_refused(tiny):
    with pytest.raises(ConfigError, match="exceeds the checkpoint's context of 8192"):
        start(config(tiny, max_model_len=10_000))


def test_a_budget_below_the_slots_is_refused(tiny):
    with pytest.raises(ConfigError, match="--max-num-batched-tokens 8 must be at least --max-num-seqs 32"):
        start(config(tiny, max_num_batched_tokens=8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(tiny):
    with pytest.raises(ConfigError, match="--device cuda: torch finds no GPU"):
        start(RuntimeConfig(model_dir=str(tiny), device="cuda"))


def test_weights_that_are_no_numbers_are_found_before_anybody_asks(tmp_path):
    fixture.write(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="the weights are damaged"):
        start(config(tmp_path, max_model_len=64))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers(tiny, dtype):
    started = start(config(tiny, max_model_len=128, dtype=dtype))
    assert started.ready.dtype == dtype
    assert len(finish(started.engine, [submit("a", range(5, 50))])["a"].token_ids) == 8


def test_warming_up_leaves_no_trace(tiny):
    engine = start(config(tiny, max_model_len=64)).engine
    stats = engine.step().stats
    assert (stats.generation_tokens_total, stats.prompt_tokens_total, stats.kv_blocks_used) == (0, 0, 0)


def test_a_gpus_cache_gets_what_its_share_leaves(tiny):
    flags = config(tiny, gpu_memory_utilization=0.5)
    assert kv_cache.gpu_budget(flags, total_bytes=1000, used_bytes=300, step_bytes=100) == 100
    with pytest.raises(ConfigError, match="leaves nothing for the KV cache"):
        kv_cache.gpu_budget(flags, total_bytes=1000, used_bytes=400, step_bytes=100)
    told = config(tiny, kv_cache_memory_bytes=77)
    assert kv_cache.gpu_budget(told, total_bytes=1000, used_bytes=400, step_bytes=100) == 77


def test_a_cpus_cache_is_half_of_what_is_free_and_at_most_2_gib(tiny):
    assert kv_cache.cpu_budget(config(tiny), available_bytes=1000) == 500
    assert kv_cache.cpu_budget(config(tiny), available_bytes=2**40) == 2 * 2**30
    assert kv_cache.cpu_budget(config(tiny, kv_cache_memory_bytes=77), available_bytes=1000) == 77


def test_the_cache_is_no_larger_than_all_slots_and_as_many_cached_prefixes_could_fill(tiny):
    flags = {"max_num_seqs": 3, "max_model_len": 32}
    model = read_model_config(tiny)
    assert kv_cache.size(config(tiny, **flags, enable_prefix_caching=False), model, 2**40, 4).blocks == 6
    assert kv_cache.size(config(tiny, **flags), model, 2**40, 4).blocks == 12
