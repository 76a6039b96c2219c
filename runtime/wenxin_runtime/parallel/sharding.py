"""Which part of each tensor belongs to which rank. Plain arithmetic, no torch.

Megatron's layout (Shoeybi et al. 2019, arXiv:1909.08053): projections into the heads and into the MLP's width are cut
by output, those back to the hidden size by input, so a layer needs two sums over the ranks: one after the attention,
one after the feed-forward. Embedding and head are cut by vocabulary; norms and router are whole on every rank.

Data-parallel groups are alike but for what only one part of the world needs to hold: the head is cut over all ranks,
and so are whole experts.
"""

import re
from dataclasses import dataclass

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.weights.model_config import ModelConfig
from wenxin_runtime.weights.names import EMBEDDING, HEAD, HEAD_BIAS

Slices = tuple[slice, ...]
"""One slice per axis of a tensor."""

_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.")
_KEYS_AND_VALUES = ("k_proj", "v_proj")
_OF_THE_HEAD = (HEAD, HEAD_BIAS)
_BY_OUTPUT = ("q_proj", *_KEYS_AND_VALUES, "gate_proj", "up_proj")
_BY_INPUT = ("o_proj", "down_proj")
_WHOLE = slice(None)


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a model. Size 1 is the whole.

    Attributes:
        config: The checkpoint's.
        rank: 0 to size - 1, in its group.
        size: Ranks that share every layer (--tensor-parallel-size).
        expert_parallel: Whether whole experts are spread over the ranks of all groups, rather than a part of each held
            by all of a group.
        group: The rank's data-parallel group.
        groups: How many there are (--data-parallel-size).
    """

    config: ModelConfig
    rank: int = 0
    size: int = 1
    expert_parallel: bool = False
    group: int = 0
    groups: int = 1

    @property
    def world_rank(self) -> int:
        """This rank's number among all."""
        return self.group * self.size + self.rank

    @property
    def world_size(self) -> int:
        """Ranks of all groups."""
        return self.groups * self.size

    @property
    def heads(self) -> range:
        """Query heads of this rank."""
        return self.part(self.config.num_heads)

    @property
    def kv_heads(self) -> range:
        """Key-value heads of this rank. Where ranks outnumber them, neighbours hold the same one."""
        return self.part(self.config.num_kv_heads)

    @property
    def vocabulary(self) -> range:
        """Token ids whose rows of the embedding lie here."""
        return self.part(self.config.vocab_size)

    @property
    def head(self) -> range:
        """Token ids that are scored here."""
        return _part(self.config.vocab_size, self.world_rank, self.world_size)

    @property
    def experts(self) -> range:
        """Routed experts, or parts of them, that are computed here."""
        count = self.config.moe.num_experts if self.config.moe else 0
        return _part(count, self.world_rank, self.world_size) if self.expert_parallel else range(count)

    def part(self, total: int) -> range:
        """Cut `total` into equal parts for the group, or hand each of them to several of its ranks."""
        return _part(total, self.rank, self.size)

    def slices(self, name: str, shape: tuple[int, ...]) -> Slices:
        """Say what of a tensor lies here.

        Args:
            name: As in the checkpoint.
            shape: Of the whole tensor, [out, in] for a weight.
        """
        axis = self._cut_axis(name, shape)
        if axis is None:
            return tuple(_WHOLE for _ in shape)
        part = self.head if name in _OF_THE_HEAD else self.part(shape[axis])
        if _module(name) in _KEYS_AND_VALUES:  # may be fewer than ranks, so their rows are cut by heads
            heads, width = self.kv_heads, self.config.head_dim
            part = range(heads.start * width, heads.stop * width)
        return tuple(slice(part.start, part.stop) if i == axis else _WHOLE for i in range(len(shape)))

    def adds_bias(self, name: str) -> bool:
        """Say whether a bias is added here: one that follows a sum over the ranks must count once."""
        return self.rank == 0 or not name.endswith(("o_proj.bias", "down_proj.bias"))

    def _cut_axis(self, name: str, shape: tuple[int, ...]) -> int | None:
        if self.world_size == 1 or (self.expert_parallel and _EXPERT.search(name)):
            return None
        if name == EMBEDDING or name in _OF_THE_HEAD or _module(name) in _BY_OUTPUT:
            return 0
        # A bias follows the sum over the ranks, so it is not cut.
        return 1 if _module(name) in _BY_INPUT and len(shape) == 2 else None


def sizes_that_work(config: ModelConfig) -> list[int]:
    """List the tensor-parallel sizes that cut every layer of a model evenly."""
    return [size for size in range(1, config.num_heads + 1) if not _uneven(config, size)]


def check_layout(
    config: ModelConfig,
    tensor: int,
    *,
    data: int = 1,
    expert_parallel: bool = False,
    redundant_experts: int = 0,
) -> None:
    """Refuse a layout that does not cut the model evenly, before a weight is read.

    Args:
        config: The model's.
        tensor: Ranks that share every layer.
        data: Groups of them.
        expert_parallel: Whether whole experts are spread over all ranks.
        redundant_experts: Places for copies of experts.

    Raises:
        ConfigError: says what does not divide, and which sizes do.
    """
    if uneven := _uneven(config, tensor):
        sizes = ", ".join(map(str, sizes_that_work(config)))
        raise ConfigError(
            f"--tensor-parallel-size {tensor} does not divide this model ({', '.join(uneven)}); these sizes do: {sizes}"
        )
    if config.vocab_size % (tensor * data):
        raise ConfigError(
            f"--data-parallel-size {data} with --tensor-parallel-size {tensor} does not divide the vocabulary of "
            f"{config.vocab_size}, which all {tensor * data} ranks share; use a power of two"
        )
    if expert_parallel:
        _check_experts(config, tensor * data, redundant_experts)


def _check_experts(config: ModelConfig, ranks: int, redundant: int) -> None:
    count = config.moe.num_experts if config.moe else 0
    if not count:
        raise ConfigError("--enable-expert-parallel: this model has no experts; leave the flag out")
    if count % ranks:
        raise ConfigError(
            f"--enable-expert-parallel: {ranks} ranks do not divide the model's {count} experts (moe_num_experts); "
            "change --tensor-parallel-size or --data-parallel-size, or leave the flag out"
        )
    if redundant % ranks:
        raise ConfigError(
            f"--num-redundant-experts {redundant}: every rank has as many, so it must be a multiple of {ranks}"
        )


def _part(total: int, rank: int, size: int) -> range:
    if total % size:
        index = rank * total // size
        return range(index, index + 1)
    width = total // size
    return range(rank * width, (rank + 1) * width)


def _uneven(config: ModelConfig, size: int) -> list[str]:
    whole = {
        "num_attention_heads": config.num_heads,
        "vocab_size": config.vocab_size,
        "intermediate_size": config.intermediate_size,
    }
    if config.moe:
        whole["moe_intermediate_size"] = config.moe.expert_size
    found = [f"{name} {count}" for name, count in whole.items() if count % size]
    if config.num_kv_heads % size and size % config.num_kv_heads:
        found.append(f"num_key_value_heads {config.num_kv_heads}")
    return found


def _module(name: str) -> str:
    return name.split(".")[-2]
