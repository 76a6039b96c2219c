"""What a rank is, as it says in the roll call."""

import torch

from wenxin_runtime import __version__
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine.loaded import device_of, dtype_of
from wenxin_runtime.errors import CheckpointError
from wenxin_runtime.parallel.roll_call import shared_flags
from wenxin_runtime.parallel.wire import Hello
from wenxin_runtime.weights.checkpoint import Checkpoint
from wenxin_runtime.weights.digest import digest_tree


def hello_of(config: RuntimeConfig, rank: int, checkpoint: Checkpoint) -> Hello:
    """Describe a rank of this machine.

    The checkpoint's digest takes seconds, so only the first rank of a machine makes it, and only where there are
    others that could have other files.

    Raises:
        CheckpointError: the model directory cannot be read.
        ConfigError: a GPU is wanted, and there is none.
    """
    index = rank % config.ranks_of_node
    device = device_of(config, index)
    on_gpu = device.type == "cuda"
    return Hello(
        rank=rank,
        node=config.node_rank,
        version=__version__,
        checkpoint=_digest(checkpoint) if config.nnodes > 1 and index == 0 else "",
        flags=shared_flags(config),
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        memory=torch.cuda.get_device_properties(device).total_memory if on_gpu else 0,
        dtype=str(dtype_of(config, device)).removeprefix("torch."),
    )


def troubled(config: RuntimeConfig, rank: int, trouble: Exception) -> Hello:
    """Describe a rank that cannot take part."""
    flags = shared_flags(config)
    return Hello(rank=rank, node=config.node_rank, version=__version__, flags=flags, trouble=str(trouble))


def _digest(checkpoint: Checkpoint) -> str:
    try:
        return digest_tree(checkpoint.model_dir)
    except OSError as error:
        raise CheckpointError(f"{checkpoint.model_dir}: cannot be read: {error}") from error
