"""Which part of each tensor belongs to which rank. Plain arithmetic, no torch.

Megatron's layout (Shoeybi et al. 2019, arXiv:1909.08053): projections into the heads and into the MLP's width are cut
by output, those back to the hidden size by input, so a layer needs two sums over the ranks: one after the attention,
one after the feed-forward. Embedding and head are cut by vocabulary; norms and router are whole on every rank.
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
_BY_VOCABULARY = (EMBEDDING, HEAD, HEAD_BIAS)
_BY_OUTPUT = ("q_proj", *_KEYS_AND_VALUES, "gate_proj", "up_proj")
_BY_INPUT = ("o_proj", "down_proj")
_WHOLE = slice(None)


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a model. Size 1 is the whole.

    Attributes:
        config: The checkpoint's.
        rank: 0 to size - 1.
        size: Ranks that share every layer (--tensor-parallel-size).
        expert_parallel: Whether whole experts are spread over the ranks, rather than a part of each held by all.
    """

    config: ModelConfig
    rank: int = 0
    size: int = 1
    expert_parallel: bool = False

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
        """Token ids whose rows of embedding and head lie here."""
        return self.part(self.config.vocab_size)

    @property
    def experts(self) -> range:
        """Routed experts, or parts of them, that are computed here."""
        count = self.config.moe.num_experts if self.config.moe else 0
        return self.part(count) if self.expert_parallel else range(count)

    def part(self, total: int) -> range:
        """Cut `total` into equal parts, or hand each of them to several ranks."""
        if total % self.size:
            index = self.rank * total // self.size
            return range(index, index + 1)
        width = total // self.size
        return range(self.rank * width, (self.rank + 1) * width)

    def slices(self, name: str, shape: tuple[int, ...]) -> Slices:
        """Say what of a tensor lies here.

        Args:
            name: As in the checkpoint.
            shape: Of the whole tensor, [out, in] for a weight.
        """
        axis = self._cut_axis(name, shape)
        if axis is None:
            return tuple(_WHOLE for _ in shape)
        part = self.part(shape[axis])
        if _module(name) in _KEYS_AND_VALUES:  # may be fewer than ranks, so their rows are cut by heads
            heads, width = self.kv_heads, self.config.head_dim
            part = range(heads.start * width, heads.stop * width)
        return tuple(slice(part.start, part.stop) if i == axis else _WHOLE for i in range(len(shape)))

    def adds_bias(self, name: str) -> bool:
        """Say whether a bias is added here: one that follows a sum over the ranks must count once."""
        return self.rank == 0 or not name.endswith(("o_proj.bias", "down_proj.bias"))

    def _cut_axis(self, name: str, shape: tuple[int, ...]) -> int | None:
        if self.size == 1 or (self.expert_parallel and _EXPERT.search(name)):
            return None
        if name in _BY_VOCABULARY or _module(name) in _BY_OUTPUT:
            return 0
        # A bias follows the sum over the ranks, so it is not cut.
        return 1 if _module(name) in _BY_INPUT and len(shape) == 2 else None


def sizes_that_work(config: ModelConfig, *, expert_parallel: bool = False) -> list[int]:
    """List the tensor-parallel sizes that cut every layer of a model evenly."""
    return [size for size in range(1, config.num_heads + 1) if not _uneven(config, size, expert_parallel)]


def check_size(config: ModelConfig, size: int, *, expert_parallel: bool = False) -> None:
    """Refuse a size that does not cut the model evenly, before a weight is read.

    Raises:
        ConfigError: says what does not divide, and which sizes do.
    """
    uneven = _uneven(config, size, expert_parallel)
    if uneven:
        sizes = ", ".join(map(str, sizes_that_work(config, expert_parallel=expert_parallel)))
        raise ConfigError(
            f"--tensor-parallel-size {size} does not divide this model ({', '.join(uneven)}); these sizes do: {sizes}"
        )


def _uneven(config: ModelConfig, size: int, expert_parallel: bool) -> list[str]:
    whole = {
        "num_attention_heads": config.num_heads,
        "vocab_size": config.vocab_size,
        "intermediate_size": config.intermediate_size,
    }
    if config.moe:
        whole["moe_intermediate_size"] = config.moe.expert_size
        if expert_parallel:
            whole["moe_num_experts"] = config.moe.num_experts
    found = [f"{name} {count}" for name, count in whole.items() if count % size]
    if config.num_kv_heads % size and size % config.num_kv_heads:
        found.append(f"num_key_value_heads {config.num_kv_heads}")
    return found


def _module(name: str) -> str:
    return name.split(".")[-2]
