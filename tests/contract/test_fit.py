"""What the operator computes of a GPU's memory is what the runtime allocates, rank by rank."""

import gc
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from wenxin_operator import fit
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.presets import PRESETS
from wenxin_runtime import fixture, weights
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine import kv_cache
from wenxin_runtime.engine.loaded import load
from wenxin_runtime.fixture.shapes import SHAPES
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.models import MODELS
from wenxin_runtime.models.builder import Builder
from wenxin_runtime.parallel.ranks import ALONE
from wenxin_runtime.parallel.sharding import Shard, sizes_that_work
from wenxin_runtime.weights.checkpoint import open_checkpoint
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config
from wenxin_runtime.weights.names import EMBEDDING, HEAD, expected_shapes

RELEASED_300B: dict[str, Any] = SHAPES["ernie4_5_moe"]["21b-a3b"] | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 54,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "moe_k": 8,
    "moe_intermediate_size": 3584,
    "moe_num_shared_experts": 0,
    "moe_layer_start_index": 3,
    "tie_word_embeddings": False,
}
RELEASED = {
    "0.3B": SHAPES["ernie4_5"]["0.3b"],
    "21B": SHAPES["ernie4_5_moe"]["21b-a3b"],
    "300B": RELEASED_300B,
}


class Shapes:
    """Gives a rank's tensors without their content."""

    def __init__(self, shard: Shard, dtype: torch.dtype) -> None:
        self.device = torch.device("meta")
        self.dtype = dtype
        self.shard = shard
        self._shapes = expected_shapes(shard.config)

    def __call__(self, name: str) -> Tensor:
        whole = torch.empty(self._shapes[name], device="meta", dtype=self.dtype)
        return whole[self.shard.slices(name, self._shapes[name])].clone()

    def stored(self, name: str) -> Tensor:
        return self(name)

    @property
    def shares_table(self) -> bool:
        return self.shard.config.tie_word_embeddings and self.shard.head == self.shard.vocabulary

    def head(self) -> Tensor:
        whole = torch.empty(self._shapes[EMBEDDING], device="meta", dtype=self.dtype)
        return whole[self.shard.slices(HEAD, self._shapes[EMBEDDING])].clone()


def facts_of(config: ModelConfig) -> ModelFacts:
    """The facts of a configuration whose weights nobody has."""
    moe = config.moe
    return ModelFacts(
        layers=config.num_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        dtype="bfloat16",
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        tensor_parallel_sizes=tuple(sizes_that_work(config)),
        tied_head=config.tie_word_embeddings,
        experts=moe.num_experts if moe else None,
        experts_per_token=moe.top_k if moe else None,
        expert_layers=len(moe.layers) if moe else None,
        expert_size=moe.expert_size if moe else None,
        shared_experts=moe.num_shared if moe else None,
    )


def held_bytes(model: object) -> int:
    """Sum up every tensor that can be reached from `model`; a storage counts once."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    found = [model]
    while found:
        each = found.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            storages[each.untyped_storage()._cdata] = each.untyped_storage().nbytes()
        elif (
            type(each).__module__.startswith("wenxin_runtime")
            or isinstance(each, list | tuple | dict)
            or callable(each)
        ):
            closure = getattr(each, "__closure__", None) or ()
            found += [*gc.get_referents(each)] if not hasattr(each, "__code__") else [c.cell_contents for c in closure]
    return sum(storages.values())


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_weights_of_every_rank_of_a_released_model_are_as_computed(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED[name]))
    config = read_model_config(tmp_path)
    demand = fit.Demand(1024, dtype=str(dtype).removeprefix("torch."))
    facts = facts_of(config).model_copy(update={"dtype": demand.dtype})
    for size in {1, 2, 8 if config.num_kv_heads > 4 else 4}:
        shard = Shard(config, size - 1, size, expert_parallel=bool(config.moe))
        model = MODELS[config.architecture](Builder(config, Shapes(shard, dtype), ReferenceKernels(), ALONE))
        assert fit.footprint(facts, demand, size).weights == pytest.approx(held_bytes(model), rel=0.001), size


@pytest.mark.parametrize("arch", ["ernie4_5", "ernie4_5_moe"])
def test_a_real_model_holds_what_is_computed_of_its_inspection(arch: str, tmp_path: Path) -> None:
    printed = msgspec.json.decode(msgspec.json.encode(weights.inspect(fixture.write(tmp_path, arch=arch))))
    facts = parse(ModelFacts, printed)
    assert isinstance(facts, ModelFacts)
    config = RuntimeConfig(model_dir=str(tmp_path), device="cpu", cpu_threads=1)
    loaded = load(config, open_checkpoint(tmp_path), ALONE)
    computed = fit.footprint(facts, fit.Demand(1024, dtype="float32"), 1)
    assert loaded.block_bytes == computed.kv_per_token * loaded.config.block_size


@pytest.mark.parametrize(
    ("preset", "name"), [("ernie-4.5-0.3b", "0.3B"), ("ernie-4.5-21b-a3b", "21B"), ("ernie-4.5-300b-a47b", "300B")]
)
def test_a_preset_is_what_an_inspection_would_tell(preset: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED[name]))
    config = read_model_config(tmp_path)
    told = facts_of(config).model_copy(
        update={
            "architecture": config.architecture,
            "context_length": config.context_length,
            "parameters": sum(math.prod(shape) for shape in expected_shapes(config).values()),
        }
    )
    assert PRESETS[preset] == told


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_kv_cache_of_every_rank_is_as_computed(name: str, size: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED[name]))
    config = read_model_config(tmp_path)
    block = kv_cache.block_bytes(config, len(Shard(config, 0, size).kv_heads), 16, 2)
    assert block == 16 * fit.footprint(facts_of(config), fit.Demand(1024), size).kv_per_token
