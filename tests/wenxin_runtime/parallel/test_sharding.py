import json
import re

import numpy as np
import pytest

from tests.released import DENSE_300M, MOE_21B, MOE_300B
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.parallel.sharding import Shard, check_layout, sizes_that_work
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config
from wenxin_runtime.weights.names import EMBEDDING, expected_shapes

SMALL = DENSE_300M | {
    "vocab_size": 64,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "head_dim": 2,
}
SMALL_MOE = MOE_21B | {
    "vocab_size": 64,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 2,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_intermediate_size": 8,
    "use_bias": True,
}


def config(directory, content) -> ModelConfig:
    (directory / "config.json").write_text(json.dumps(content))
    return read_model_config(directory)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [(DENSE_300M, [1, 2, 4, 8, 16]), (MOE_21B, [1, 2, 4]), (MOE_300B, [1, 2, 4, 8, 16, 32, 64])],
    ids=["0.3B", "21B", "300B"],
)
def test_each_released_model_says_which_sizes_work(tmp_path, model, sizes):
    assert sizes_that_work(config(tmp_path, model)) == sizes


@pytest.mark.parametrize(
    ("model", "size", "why"),
    [
        (MOE_21B, 8, "num_attention_heads 20), 1, 2, 4"),
        (MOE_21B, 5, "vocab_size 103424, intermediate_size 12288, moe_intermediate_size 1536, num_key_value_heads 4"),
        (DENSE_300M, 3, "num_attention_heads 16, vocab_size 103424, num_key_value_heads 2"),
    ],
    ids=["21B-8", "21B-5", "0.3B-3"],
)
def test_a_size_that_does_not_divide_is_refused_with_the_sizes_that_do(tmp_path, model, size, why):
    reason, _, sizes = why.partition("), ")
    with pytest.raises(ConfigError, match=rf"--tensor-parallel-size {size} .*{re.escape(reason)}.*sizes do: {sizes}"):
        check_layout(config(tmp_path, model), size)


def test_expert_parallelism_needs_experts_that_divide(tmp_path):
    model = config(tmp_path, MOE_300B | {"moe_num_experts": 10})
    check_layout(model, 4)
    with pytest.raises(ConfigError, match=r"4 ranks do not divide the model's 10 experts \(moe_num_experts\)"):
        check_layout(model, 4, expert_parallel=True)


@pytest.mark.parametrize("expert_parallel", [False, True])
@pytest.mark.parametrize(("content", "size"), [(SMALL, 2), (SMALL, 8), (SMALL_MOE, 2), (SMALL_MOE, 4)])
def test_the_ranks_together_hold_every_element_and_whole_tensors_alike(tmp_path, content, size, expert_parallel):
    model = config(tmp_path, content)
    if content is SMALL_MOE and size > model.num_kv_heads:
        assert Shard(model, 1, size).kv_heads == Shard(model, 0, size).kv_heads, "neighbours share a key-value head"
    for name, shape in expected_shapes(model).items():
        held = np.zeros(shape, dtype=int)
        for rank in range(size):
            shard = Shard(model, rank, size, expert_parallel)
            here = re.search(r"experts\.(\d+)\.", name)
            if here is None or "shared" in name or int(here[1]) in shard.experts:
                held[shard.slices(name, shape)] += 1
        alike = (
            "norm" in name or ".gate." in name or "moe_statics" in name or name.endswith(("o_proj.bias", "n_proj.bias"))
        )
        copies = size if alike else size // model.num_kv_heads if re.search("[kv]_proj", name) else 1
        assert (held == max(copies, 1)).all(), name


def test_a_bias_behind_a_sum_is_added_once(tmp_path):
    model = config(tmp_path, SMALL_MOE)
    names = [name for name in expected_shapes(model) if name.endswith("bias")]
    everywhere = [name for name in names if Shard(model, 1, 2).adds_bias(name)]
    assert all(Shard(model, 0, 2).adds_bias(name) for name in names)
    assert set(names) - set(everywhere) == {n for n in names if "o_proj" in n or "down_proj" in n}


def test_a_rank_of_a_released_model_holds_its_share(tmp_path):
    model = config(tmp_path, MOE_300B)
    shard = Shard(model, 3, 8, expert_parallel=True)
    assert (shard.heads, shard.kv_heads, shard.experts) == (range(24, 32), range(3, 4), range(24, 32))
    assert shard.slices(EMBEDDING, (103424, 8192)) == (slice(38784, 51712), slice(None))
