"""A rank's part of the model on its device, and the memory beside it."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine import kv_cache, machine
from wenxin_runtime.engine.graphs import DecodeGraphs, cuda_capture
from wenxin_runtime.engine.runner import Model
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.kernels import Kernels, choose
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.models import MODELS
from wenxin_runtime.models.builder import Builder
from wenxin_runtime.models.ernie45_moe import read_expert
from wenxin_runtime.parallel.balance import Balance
from wenxin_runtime.parallel.groups import GroupedModel
from wenxin_runtime.parallel.placement import Slots
from wenxin_runtime.parallel.ranks import Mesh
from wenxin_runtime.parallel.sharding import Shard, check_layout
from wenxin_runtime.weights.checkpoint import Checkpoint, open_checkpoint
from wenxin_runtime.weights.loading import CheckpointSource, Progress, Rereading
from wenxin_runtime.weights.model_config import ModelConfig


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one rank holds; `balance` where whole experts are spread over the ranks."""

    config: RuntimeConfig
    checkpoint: Checkpoint
    shard: Shard
    mesh: Mesh
    device: torch.device
    dtype: torch.dtype
    kernels: Kernels
    model: Model
    balance: Balance | None = None

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.checkpoint.config.hidden_size

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of this rank's KV cache."""
        kv_heads, element = len(self.shard.kv_heads), self.dtype.itemsize
        return kv_cache.block_bytes(self.checkpoint.config, kv_heads, self.config.block_size, element)

    def cache_budget(self, step_bytes: int) -> int:
        """Say how many bytes a KV cache may take on this device, beside a step that takes `step_bytes`.

        Raises:
            ConfigError: none is left.
        """
        if self.device.type == "cpu":  # whose memory the ranks of a node share
            return kv_cache.cpu_budget(self.config, machine.available_memory() // self.config.ranks_of_node)
        free, total = torch.cuda.mem_get_info()
        return kv_cache.gpu_budget(self.config, total, total - free, step_bytes)

    def with_cache(self, blocks: int, *, replays: int | None) -> tuple[Model, Tensor]:
        """Make a KV cache, [layers, blocks, block_size, 2 * kv_heads, head_dim], and the model that goes with it.

        Args:
            blocks: Those that sequences can have.
            replays: Longest sequence of the decode steps to be captured as CUDA graphs, where that can be done; None
                for a cache that is soon thrown away.
        """
        model, on_gpu = self.checkpoint.config, self.device.type != "cpu"
        blocks += on_gpu  # one that is no sequence's, for the padding of decode graphs
        shape = (model.num_layers, blocks, self.config.block_size, 2 * len(self.shard.kv_heads), model.head_dim)
        cache = torch.zeros(shape, device=self.device, dtype=self.dtype)
        captured = on_gpu and not isinstance(self.kernels, ReferenceKernels) and may_replay(self.config, model)
        model_here = self.model
        if replays is not None and captured:
            model_here = DecodeGraphs(model_here, cache, self.config.max_num_seqs, replays, cuda_capture())
        return GroupedModel(model_here, self.mesh) if self.mesh.groups > 1 else model_here, cache


def may_replay(config: RuntimeConfig, model: ModelConfig) -> bool:
    """Say whether decode steps may be captured as CUDA graphs.

    Groups that compute beside each other may: each replays the graph of as many rows as it has, or none. Where tokens
    travel between groups to their experts, how many go where is decided by the router anew in every layer, and the host
    has to know it: no graph can repeat that.
    """
    tokens_travel = config.data_parallel_size > 1 and config.enable_expert_parallel and model.moe is not None
    return not config.enforce_eager and not tokens_travel


def check(config: RuntimeConfig) -> Checkpoint:
    """Open the checkpoint and refuse what the ranks cannot share, before a weight is read.

    Raises:
        CheckpointError: the model directory cannot be served.
        ConfigError: the model cannot be cut into so many parts, or there are fewer GPUs.
    """
    checkpoint = open_checkpoint(config.model_dir)
    check_layout(
        checkpoint.config,
        config.tensor_parallel_size,
        data=config.data_parallel_size,
        expert_parallel=config.enable_expert_parallel,
        redundant_experts=config.num_redundant_experts,
    )
    needed, found = config.ranks_of_node, torch.cuda.device_count()
    if config.device != "cpu" and 0 < found < needed:
        raise ConfigError(
            f"--tensor-parallel-size {config.tensor_parallel_size} with --data-parallel-size "
            f"{config.data_parallel_size} on {config.nnodes} nodes: this machine has {found} GPUs, and needs {needed}, "
            "one for each of its ranks"
        )
    return checkpoint


def load(config: RuntimeConfig, checkpoint: Checkpoint, mesh: Mesh, progress: Progress | None = None) -> Loaded:
    """Read this rank's part of the checkpoint.

    Raises:
        ConfigError: the flags do not fit the machine or the checkpoint.
    """
    device = device_of(config, mesh.world.rank % config.ranks_of_node)
    dtype = dtype_of(config, device)
    if device.type == "cpu":
        torch.set_num_threads(config.cpu_threads or max(1, machine.usable_cores() // config.ranks_of_node))
    shard = Shard(
        checkpoint.config,
        mesh.tensor.rank,
        mesh.tensor.size,
        expert_parallel=config.enable_expert_parallel,
        group=mesh.group,
        groups=mesh.groups,
    )
    source = CheckpointSource(checkpoint, device, dtype, progress, shard)
    kernels = choose(device, dtype, config.quantization)
    balance = _balance(config, checkpoint, mesh, device, dtype)
    model = MODELS[checkpoint.config.architecture](Builder(checkpoint.config, source, kernels, mesh, balance))
    machine.return_freed_memory()
    return Loaded(config, checkpoint, shard, mesh, device, dtype, kernels, model, balance)


def _balance(
    config: RuntimeConfig, checkpoint: Checkpoint, mesh: Mesh, device: torch.device, dtype: torch.dtype
) -> Balance | None:
    moe, ranks = checkpoint.config.moe, mesh.world.size
    if moe is None or not config.enable_expert_parallel:
        return None
    slots = Slots(moe.num_experts, ranks, config.num_redundant_experts // ranks)
    read = functools.partial(read_expert, Rereading(checkpoint, dtype))
    return Balance(slots, sorted(moe.layers), mesh, device, read)


def device_of(config: RuntimeConfig, index: int = 0) -> torch.device:
    """Choose the device of a node's rank number `index`.

    Raises:
        ConfigError: a GPU is wanted, and there is none.
    """
    found = torch.cuda.is_available()
    if config.device == "cuda" and not found:
        raise ConfigError("--device cuda: torch finds no GPU here; is one requested for the pod, and its driver there?")
    return torch.device("cuda", index) if found and config.device != "cpu" else torch.device("cpu")


def dtype_of(config: RuntimeConfig, device: torch.device) -> torch.dtype:
    """Choose what weights, activations and KV cache are kept in."""
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
