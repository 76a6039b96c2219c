"""What the operator computes of a GPU's memory is what the runtime allocates, rank by rank."""

import gc
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest
import torch
from torch import Tensor

from tests.released import RELEASED
from wenxin_operator import fit
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.fit import Layout
from wenxin_operator.presets import PRESETS
from wenxin_runtime import fixture, weights
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine import kv_cache
from wenxin_runtime.engine import loaded as engine_loaded
from wenxin_runtime.engine.loaded import load
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.kernels.gpu import GpuKernels
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.models import MODELS
from wenxin_runtime.models.builder import Builder
from wenxin_runtime.parallel.ranks import Alone, Mesh
from wenxin_runtime.parallel.sharding import Shard, check_layout, sizes_that_work
from wenxin_runtime.weights.checkpoint import open_checkpoint
from wenxin_runtime.weights.model_config import ModelConfig, read_model_config
from wenxin_runtime.weights.names import EMBEDDING, HEAD, expected_shapes

WITHIN = 0.03


class Member(Alone):
    """One of several ranks while it loads, which needs nobody else."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


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


def mesh_of(layout: Layout, world_rank: int) -> Mesh:
    group, rank = divmod(world_rank, layout.tensor)
    return Mesh(Member(world_rank, layout.gpus), Member(rank, layout.tensor), group, layout.data)


def shard_of(config: ModelConfig, mesh: Mesh, *, expert: bool) -> Shard:
    return Shard(config, mesh.tensor.rank, mesh.tensor.size, expert, mesh.group, mesh.groups)


def released(directory: Path, name: str) -> ModelConfig:
    (directory / "config.json").write_text(json.dumps(RELEASED[name]))
    return read_model_config(directory)


def layouts_of(name: str) -> Iterator[Layout]:
    """Every size, number of groups and spread of experts that the model takes."""
    moe = "moe_k" in RELEASED[name]
    for tensor, data, expert in itertools.product((1, 2, 4, 8), (1, 2), (False, True)):
        if (moe or not expert) and not (name == "21B" and tensor == 8):
            yield Layout(tensor, data, expert)


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name in RELEASED for layout in layouts_of(name)], ids=str
)
def test_weights_of_every_rank_of_a_released_model_are_as_computed(name: str, layout: Layout, tmp_path: Path) -> None:
    config = released(tmp_path, name)
    demand = fit.Demand(1024, dtype="bfloat16")
    computed = fit.footprint(facts_of(config), demand, layout)
    mesh = mesh_of(layout, layout.gpus - 1)  # the first is looked at where small models load
    shard = shard_of(config, mesh, expert=layout.expert)
    model = MODELS[config.architecture](Builder(config, Shapes(shard, torch.bfloat16), ReferenceKernels(), mesh))
    assert computed.weights == pytest.approx(held_bytes(model), rel=WITHIN)
    assert computed.kv_per_token * 16 == kv_cache.block_bytes(config, len(shard.kv_heads), 16, 2)


def test_a_layout_is_even_for_the_operator_exactly_where_the_runtime_takes_it(tmp_path: Path) -> None:
    sizes, copies = (1, 2, 3, 4, 5, 8, 16, 64), (0, 6, 8)
    for name in RELEASED:
        config = released(tmp_path, name)
        for tensor, data, expert, redundant in itertools.product(sizes, sizes, (False, True), copies):
            if redundant and not expert:
                continue
            layout = Layout(tensor, data, expert, redundant)
            try:
                check_layout(config, tensor, data=data, expert_parallel=expert, redundant_experts=redundant)
                taken = True
            except ConfigError:
                taken = False
            assert fit.divides(facts_of(config), layout) == taken, layout


class Allocated:
    """Bytes of all tensors that come to life while it is open and still live when it closes, a storage counted once."""

    def __enter__(self) -> Self:
        gc.collect()
        gc.freeze()  # what is there already is not looked at
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) is Tensor]
        storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}
        self.bytes = sum(storages.values())
        gc.unfreeze()


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("bfloat16", "none"), ("float32", "none"), ("bfloat16", "int8")], ids=str
)
@pytest.mark.parametrize(
    ("arch", "layout"),
    [
        ("ernie4_5", Layout()),
        ("ernie4_5", Layout(2)),
        ("ernie4_5", Layout(4)),
        ("ernie4_5", Layout(2, 2)),
        ("ernie4_5_moe", Layout()),
        ("ernie4_5_moe", Layout(2)),
        ("ernie4_5_moe", Layout(4, expert=True)),
        ("ernie4_5_moe", Layout(1, 2, expert=True)),
        ("ernie4_5_moe", Layout(2, 2)),
        ("ernie4_5_moe", Layout(2, 2, expert=True)),
        ("ernie4_5_moe", Layout(2, 2, expert=True, redundant_experts=8)),
    ],
    ids=str,
)
def test_a_rank_that_loads_a_small_model_allocates_what_is_computed_of_its_inspection(
    arch: str, layout: Layout, dtype: str, quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is allocated is counted, whoever holds it; with a GPU's kernels, whose layout of weights is computed."""
    fixture.write(tmp_path, arch=arch, dtype="bfloat16")
    printed = msgspec.json.decode(msgspec.json.encode(weights.inspect(tmp_path)))
    facts = parse(ModelFacts, printed)
    assert isinstance(facts, ModelFacts)
    monkeypatch.setattr(engine_loaded, "choose", lambda _, __, quantized: GpuKernels(int8=quantized == "int8"))
    config = RuntimeConfig(
        model_dir=str(tmp_path),
        device="cpu",
        dtype=dtype,
        quantization=quantization,
        cpu_threads=1,
        tensor_parallel_size=layout.tensor,
        data_parallel_size=layout.data,
        enable_expert_parallel=layout.expert,
        num_redundant_experts=layout.redundant_experts,
    )
    checkpoint = open_checkpoint(tmp_path)
    computed = fit.footprint(facts, fit.Demand(1024, dtype=dtype, quantization=quantization), layout)
    for world_rank in {0, layout.gpus - 1}:
        with Allocated() as allocated:
            loaded = load(config, checkpoint, mesh_of(layout, world_rank))
        assert computed.weights == pytest.approx(allocated.bytes, rel=WITHIN), world_rank
        _, cache = loaded.with_cache(64, replays=None)
        assert computed.kv_per_token * 64 * config.block_size == cache.untyped_storage().nbytes()
        del loaded, cache


@pytest.mark.parametrize(
    ("preset", "name"), [("ernie-4.5-0.3b", "0.3B"), ("ernie-4.5-21b-a3b", "21B"), ("ernie-4.5-300b-a47b", "300B")]
)
def test_a_preset_is_what_an_inspection_would_tell(preset: str, name: str, tmp_path: Path) -> None:
    config = released(tmp_path, name)
    told = facts_of(config).model_copy(
        update={
            "architecture": config.architecture,
            "context_length": config.context_length,
            "parameters": sum(math.prod(shape) for shape in expected_shapes(config).values()),
        }
    )
    assert PRESETS[preset] == told
