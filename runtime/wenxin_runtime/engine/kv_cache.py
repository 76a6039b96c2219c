"""How large the KV cache is, and how long a sequence that leaves room for. Numbers only; no torch."""

from dataclasses import dataclass

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.weights.model_config import ModelConfig

_MOST_ON_CPU = 2 * 2**30
_SHARE_OF_FREE_MEMORY = 0.5


@dataclass(frozen=True, slots=True)
class KVCacheSize:
    """Blocks to allocate, and the longest sequence (prompt and answer) that is served."""

    blocks: int
    block_size: int
    max_model_len: int


def cpu_budget(config: RuntimeConfig, available_bytes: int) -> int:
    """Decide how many bytes of a CPU's memory the cache may take: half of what is free, at most 2 GiB, if not told."""
    return config.kv_cache_memory_bytes or min(_MOST_ON_CPU, int(available_bytes * _SHARE_OF_FREE_MEMORY))


def gpu_budget(config: RuntimeConfig, total_bytes: int, used_bytes: int, step_bytes: int) -> int:
    """Decide how many bytes of a GPU's memory the cache may take.

    Args:
        config: Gives --gpu-memory-utilization or --kv-cache-memory-bytes.
        total_bytes: The GPU's memory.
        used_bytes: What is taken now, weights included, by anybody.
        step_bytes: What the largest step takes on top.

    Raises:
        ConfigError: nothing is left.
    """
    if config.kv_cache_memory_bytes:
        return config.kv_cache_memory_bytes
    left = int(total_bytes * config.gpu_memory_utilization) - used_bytes - step_bytes
    if left <= 0:
        raise ConfigError(
            f"--gpu-memory-utilization {config.gpu_memory_utilization} of {_gib(total_bytes)} leaves nothing for the "
            f"KV cache: {_gib(used_bytes)} are taken and a step needs {_gib(step_bytes)}; raise it, lower "
            "--max-num-batched-tokens, or use a larger GPU"
        )
    return left


def block_bytes(model: ModelConfig, kv_heads: int, block_size: int, element_bytes: int) -> int:
    """Count the bytes of one block: keys and values of `block_size` tokens in all layers, of `kv_heads` heads."""
    return model.num_layers * block_size * 2 * kv_heads * model.head_dim * element_bytes


def size(config: RuntimeConfig, model: ModelConfig, budget_bytes: int, per_block: int) -> KVCacheSize:
    """Fit a cache whose blocks take `per_block` bytes into `budget_bytes`, but no larger than is of use.

    That is all slots at full length, and with prefix caching as much again for the prefixes of sequences that ended.

    Raises:
        ConfigError: --max-model-len exceeds the checkpoint's context, or the cache cannot hold one such sequence.
    """
    wanted = config.max_model_len or model.context_length
    if wanted > model.context_length:
        raise ConfigError(f"--max-model-len {wanted} exceeds the checkpoint's context of {model.context_length} tokens")
    per_sequence = -(-wanted // config.block_size)
    of_use = config.max_num_seqs * per_sequence * (2 if config.enable_prefix_caching else 1)
    blocks = min(budget_bytes // per_block, of_use)
    room = blocks * config.block_size
    if room < wanted and (config.max_model_len or blocks == 0):
        raise ConfigError(
            f"--max-model-len {wanted} needs a KV cache of {_gib(per_sequence * per_block)}, and {_gib(budget_bytes)} "
            f"are available, enough for {room} tokens; lower --max-model-len or raise --kv-cache-memory-bytes"
        )
    return KVCacheSize(blocks, config.block_size, min(wanted, room))


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
