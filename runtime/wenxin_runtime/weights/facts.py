"""What `wenxin-runtime inspect` prints and the operator copies into a model's status."""

from pathlib import Path

import msgspec

from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.parallel.sharding import sizes_that_work
from wenxin_runtime.weights.checkpoint import open_checkpoint
from wenxin_runtime.weights.digest import digest_tree


class Facts(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a checkpoint is; `msgspec.json.encode` gives the agreed JSON (`hiddenSize`, ...).

    What tells of experts is left out for a dense model.
    """

    digest: str
    architecture: str
    parameters: int
    bytes: int
    layers: int
    hidden_size: int
    context_length: int
    vocab_size: int
    dtype: str
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    tensor_parallel_sizes: tuple[int, ...]
    tied_head: bool
    experts: int | None = None
    experts_per_token: int | None = None
    expert_layers: int | None = None
    expert_size: int | None = None
    shared_experts: int | None = None
    active_parameters: int | None = None


def inspect(model_dir: str | Path) -> Facts:
    """Verify a checkpoint without loading it onto a device. Needs no torch.

    Raises:
        CheckpointError: says which file is wrong and what to do.
    """
    checkpoint = open_checkpoint(model_dir)
    config, moe = checkpoint.config, checkpoint.config.moe
    try:
        digest = digest_tree(checkpoint.model_dir)
    except OSError as error:
        raise CheckpointError(f"{model_dir} cannot be read: {error}") from error
    return Facts(
        digest=digest,
        architecture=config.architecture,
        parameters=checkpoint.parameters,
        bytes=checkpoint.bytes,
        layers=config.num_layers,
        hidden_size=config.hidden_size,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        dtype=checkpoint.dtype,
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
        active_parameters=checkpoint.active_parameters if moe else None,
    )
