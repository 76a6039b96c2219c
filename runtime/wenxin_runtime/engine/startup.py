"""From a RuntimeConfig to an engine that has generated its first token."""

import logging
import os
import time
from dataclasses import dataclass

import torch

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine import kv_cache, machine
from wenxin_runtime.engine.admission import Admission
from wenxin_runtime.engine.constraint import Constrain
from wenxin_runtime.engine.constraints.factory import Constraints
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.graphs import DecodeGraphs, cuda_capture
from wenxin_runtime.engine.kv_blocks import BlockPool
from wenxin_runtime.engine.kv_cache import KVCacheSize
from wenxin_runtime.engine.runner import Model, Runner
from wenxin_runtime.engine.scheduler import Limits, Scheduler
from wenxin_runtime.errors import CheckpointError, ConfigError
from wenxin_runtime.grammars import Grammars
from wenxin_runtime.ipc import Ready, SamplingParams, Submit
from wenxin_runtime.kernels import Kernels, choose
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.models import MODELS
from wenxin_runtime.tokenizer import Tokenizer
from wenxin_runtime.weights.checkpoint import Checkpoint, open_checkpoint
from wenxin_runtime.weights.loading import CheckpointSource, Progress

logger = logging.getLogger(__name__)

_DEFAULT_BATCHED_TOKENS = {"cpu": 512, "cuda": 8192}
# Beside running answers, prompts get a quarter of a step's budget: four times shorter gaps in the streams, for a few
# percent of prefill speed.
_SHARE_BESIDE_STREAMS = 4
# Tokens of the prompts to warm up with, in rising order.
_WARM_LENGTHS = {"cpu": (1,), "cuda": (1, 20, 60, 200, 600)}


@dataclass(frozen=True, slots=True)
class Started:
    """A warm engine, and what to tell the server about it."""

    engine: Engine
    ready: Ready


def start(config: RuntimeConfig, progress: Progress | None = None) -> Started:
    """Load the checkpoint, size and allocate the KV cache, generate one token.

    Raises:
        CheckpointError: the model directory cannot be served.
        ConfigError: the flags do not fit the machine or the checkpoint.
    """
    begun = time.perf_counter()
    limits = _limits(config, device := _device(config.device))
    dtype = _dtype(config.dtype, device)
    if device.type == "cpu":
        torch.set_num_threads(config.cpu_threads or machine.usable_cores())
    checkpoint = open_checkpoint(config.model_dir)
    constraints = _constraints(checkpoint)
    kernels = choose(device, dtype, config.quantization)
    source = CheckpointSource(checkpoint, device, dtype, progress)
    model = MODELS[checkpoint.config.architecture](checkpoint.config, source, kernels)
    size = _cache_size(config, checkpoint, model, limits, device, dtype)
    cache = _allocate(checkpoint, size, device, dtype)
    runner = Runner(_replayed(config, model, kernels, cache, size), cache)
    _warm_up(_engine(config, checkpoint, size, limits, runner), config, _warm_lengths(device, size))
    ready = Ready(
        max_model_len=size.max_model_len,
        kv_blocks=size.blocks,
        block_size=size.block_size,
        device=_device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        parameters=checkpoint.parameters,
        load_seconds=time.perf_counter() - begun,
    )
    return Started(_engine(config, checkpoint, size, limits, runner, constraints), ready)


def _device(wanted: str) -> torch.device:
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise ConfigError("--device cuda: torch finds no GPU here; is one requested for the pod, and its driver there?")
    return torch.device("cuda" if found and wanted != "cpu" else "cpu")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _limits(config: RuntimeConfig, device: torch.device) -> Limits:
    budget = config.max_num_batched_tokens or max(_DEFAULT_BATCHED_TOKENS[device.type], config.max_num_seqs)
    if budget < config.max_num_seqs:
        raise ConfigError(
            f"--max-num-batched-tokens {budget} must be at least --max-num-seqs {config.max_num_seqs}: "
            "every running sequence needs a token per step"
        )
    return Limits(config.max_num_seqs, budget, max(1, budget // _SHARE_BESIDE_STREAMS))


def _cache_size(
    config: RuntimeConfig,
    checkpoint: Checkpoint,
    model: Model,
    limits: Limits,
    device: torch.device,
    dtype: torch.dtype,
) -> KVCacheSize:
    if device.type == "cpu":
        budget = kv_cache.cpu_budget(config, machine.available_memory())
    else:
        step_bytes = _largest_step_bytes(config, checkpoint, model, limits, device, dtype)
        free, total = torch.cuda.mem_get_info()
        budget = kv_cache.gpu_budget(config, total, total - free, step_bytes)
    size = kv_cache.size(config, checkpoint.config, budget, dtype.itemsize)
    if size.max_model_len < checkpoint.config.context_length and config.max_model_len is None:
        logger.warning(
            "serving up to %d tokens of the checkpoint's %d: the KV cache has %d blocks of %d "
            "(--max-model-len and --kv-cache-memory-bytes say otherwise)",
            size.max_model_len,
            checkpoint.config.context_length,
            size.blocks,
            size.block_size,
        )
    return size


def _largest_step_bytes(
    config: RuntimeConfig,
    checkpoint: Checkpoint,
    model: Model,
    limits: Limits,
    device: torch.device,
    dtype: torch.dtype,
) -> int:
    """Run one prompt of the whole token budget on a throwaway cache and see what it took at most."""
    tokens = min(limits.max_tokens, checkpoint.config.context_length - 1)
    size = KVCacheSize(-(-tokens // config.block_size) + 1, config.block_size, tokens + 1)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runner = Runner(model, _allocate(checkpoint, size, device, dtype))
    engine = _engine(config, checkpoint, size, limits, runner)
    _generate_one_token(engine, tokens)
    peak = torch.cuda.max_memory_allocated() - before
    del engine, runner
    torch.cuda.empty_cache()
    return peak


def _allocate(checkpoint: Checkpoint, size: KVCacheSize, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    model = checkpoint.config
    blocks = size.blocks + (device.type != "cpu")  # one that is no sequence's, for the padding of decode graphs
    shape = (model.num_layers, blocks, size.block_size, 2 * model.num_kv_heads, model.head_dim)
    return torch.zeros(shape, device=device, dtype=dtype)


def _replayed(config: RuntimeConfig, model: Model, kernels: Kernels, cache: torch.Tensor, size: KVCacheSize) -> Model:
    """Turn decode steps into CUDA graphs, where kernels can be captured."""
    if cache.device.type == "cpu" or config.enforce_eager or isinstance(kernels, ReferenceKernels):
        return model
    return DecodeGraphs(model, cache, config.max_num_seqs, size.max_model_len, cuda_capture())


def _constraints(checkpoint: Checkpoint) -> Constraints:
    """Sort the vocabulary for grammars while the weights are loaded: it takes a second, and the interpreter with it."""
    vocab_size, eos = checkpoint.config.vocab_size, checkpoint.config.eos_token_ids

    def grammars() -> Grammars:
        return Grammars(Tokenizer.load(checkpoint.model_dir), vocab_size=vocab_size, eos_token_ids=eos)

    return Constraints(grammars, vocab_size=vocab_size, eos_token_ids=eos)


def _engine(
    config: RuntimeConfig,
    checkpoint: Checkpoint,
    size: KVCacheSize,
    limits: Limits,
    runner: Runner,
    constrain: Constrain | None = None,
) -> Engine:
    pool = BlockPool(size.blocks, size.block_size, prefix_caching=config.enable_prefix_caching)
    admission = Admission(
        vocab_size=checkpoint.config.vocab_size,
        max_model_len=size.max_model_len,
        eos_token_ids=checkpoint.config.eos_token_ids,
        seed=config.seed,
        constrain=constrain,
    )
    asynchronous = runner.device.type != "cpu" if config.async_scheduling is None else config.async_scheduling
    return Engine(runner, Scheduler(limits, pool), admission, asynchronous=asynchronous)


def _warm_lengths(device: torch.device, size: KVCacheSize) -> list[int]:
    """List the prompts to warm up with; on a GPU several, for kernels are compiled for each size of tile."""
    return [length for length in _WARM_LENGTHS[device.type] if length < size.max_model_len]


def _warm_up(engine: Engine, config: RuntimeConfig, lengths: list[int]) -> None:
    """Generate tokens: what is slow or broken the first time is so before anybody waits for it."""
    error = next(filter(None, [_generate_one_token(engine, length) for length in lengths]), None)
    if error:
        raise CheckpointError(
            f"{config.model_dir}: the first token failed: {error}; the weights are damaged"
            + (", or --dtype float16 overflows: use bfloat16" if config.dtype == "float16" else "")
        )


def _generate_one_token(engine: Engine, prompt_tokens: int) -> str | None:
    sampling = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    engine.submit(Submit(f"warm-up-{os.getpid()}", (0,) * prompt_tokens, sampling))
    error = None
    while engine.busy:
        for delta in engine.step().deltas:
            error = delta.error
    return error
