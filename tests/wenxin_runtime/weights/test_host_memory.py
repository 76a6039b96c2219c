"""How much memory of the host a rank takes to load: near what it keeps. bench/loading.py samples it."""

import pytest

from bench import loading
from wenxin_runtime import fixture
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.fixture.shapes import SHAPES

LAYERS, EXPERTS, HIDDEN, WIDTH = 9, 8, 512, 512
# What is read and converted before it is packed: a layer's experts in float32.
EXPERTS_OF_A_LAYER_MIB = EXPERTS * 3 * HIDDEN * WIDTH * 4 / 2**20


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    shape = {
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "moe_intermediate_size": WIDTH,
        "moe_num_experts": EXPERTS,
        "num_hidden_layers": LAYERS,
        "vocab_size": 4096,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES["ernie4_5_moe"], "wide", SHAPES["ernie4_5_moe"]["tiny"] | shape)
        return fixture.write(tmp_path_factory.mktemp("wide"), "ernie4_5_moe", "wide", dtype="bfloat16")


def loaded(model_dir, **flags):
    return loading.measure(RuntimeConfig(model_dir=str(model_dir), device="cpu", cpu_threads=1, **flags))


def test_beside_its_part_of_the_weights_a_rank_needs_a_few_layers_of_memory(model_dir):
    few = 4 * EXPERTS_OF_A_LAYER_MIB
    [whole] = loaded(model_dir)
    ranks = loaded(model_dir, tensor_parallel_size=2, enable_expert_parallel=True)
    assert whole["beside_them_mib"] < few < whole["weights_mib"]
    for rank in ranks:
        assert rank["weights_mib"] < 0.6 * whole["weights_mib"], "it keeps its own part"
        assert rank["beside_them_mib"] < few
