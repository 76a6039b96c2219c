"""From a RuntimeConfig to an engine that has generated its first token."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.engine import kv_cache
from wenxin_runtime.engine.admission import Admission
from wenxin_runtime.engine.constraint import Constrain
from wenxin_runtime.engine.constraints.factory import Constraints
from wenxin_runtime.engine.engine import Engine
from wenxin_runtime.engine.kv_blocks import BlockPools
from wenxin_runtime.engine.kv_cache import KVCacheSize
from wenxin_runtime.engine.loaded import Loaded, check, device_of, load
from wenxin_runtime.engine.runner import Runner
from wenxin_runtime.engine.scheduler import Limits, Scheduler
from wenxin_runtime.errors import CheckpointError, ConfigError
from wenxin_runtime.grammars import Grammars
from wenxin_runtime.ipc import ExpertStats, Ready, SamplingParams, Submit
from wenxin_runtime.parallel.leader import LeadingModel
from wenxin_runtime.parallel.orders import Allocate, Budget
from wenxin_runtime.parallel.ranks import ALONE
from wenxin_runtime.parallel.rebalancing import Rebalancing
from wenxin_runtime.parallel.team import Team
from wenxin_runtime.tokenizer import Tokenizer
from wenxin_runtime.weights.checkpoint import Checkpoint
from wenxin_runtime.weights.loading import Progress

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


def start(
    config: RuntimeConfig,
    progress: Progress | None = None,
    team: Team | None = None,
    checkpoint: Checkpoint | None = None,
) -> Started:
    """Load the checkpoint, size and allocate the KV cache, generate one token; all of it on every rank of the team.

    A `checkpoint` that `check` has opened is not opened again.

    Raises:
        CheckpointError: the model directory cannot be served.
        ConfigError: the flags do not fit the machine or the checkpoint.
    """
    begun = time.perf_counter()
    limits = _limits(config, device_of(config))
    checkpoint = checkpoint or check(config)
    constraints = _constraints(checkpoint)
    team = team or Team(ALONE)
    loaded = load(config, checkpoint, team.mesh, team.summed(progress))
    team.wait_until_loaded(progress, checkpoint.bytes)
    starting = _Starting(loaded, team, limits)
    size = starting.cache_size()
    runner = starting.runner(size.blocks, replays=size.max_model_len)
    _warm_up(starting.engine(size, runner), config, _warm_lengths(loaded.device, size))
    starting.warmed_up()
    ready = Ready(
        max_model_len=size.max_model_len,
        kv_blocks=size.blocks * loaded.mesh.groups,
        block_size=size.block_size,
        device=_device_name(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        parameters=checkpoint.parameters,
        load_seconds=time.perf_counter() - begun,
    )
    return Started(starting.engine(size, runner, constraints), ready)


class _Starting:
    """Sizes and makes what the engine needs besides the weights."""

    def __init__(self, loaded: Loaded, team: Team, limits: Limits) -> None:
        self._loaded = loaded
        self._limits = limits
        self._followers = team.followers
        self._rebalancing = (
            Rebalancing(loaded.balance, team.followers.tell) if team.followers and loaded.balance else None
        )

    def cache_size(self) -> KVCacheSize:
        """Fit the KV cache into what the devices have left."""
        loaded, config = self._loaded, self._loaded.config
        model = loaded.checkpoint.config
        size = kv_cache.size(config, model, self._budget(), loaded.block_bytes)
        if size.max_model_len < model.context_length and config.max_model_len is None:
            logger.warning(
                "serving up to %d tokens of the checkpoint's %d: the KV cache has %d blocks of %d "
                "(--max-model-len and --kv-cache-memory-bytes say otherwise)",
                size.max_model_len,
                model.context_length,
                size.blocks,
                size.block_size,
            )
        return size

    def runner(self, blocks: int, *, replays: int | None) -> Runner:
        """Allocate the KV cache, on every rank; see `Loaded.with_cache`."""
        if self._followers:
            self._followers.tell(Allocate(blocks, replays))
        model, cache = self._loaded.with_cache(blocks, replays=replays)
        if self._followers:
            model = LeadingModel(model, self._loaded.mesh, self._followers, self._rebalancing)
        return Runner(model, cache)

    def engine(self, size: KVCacheSize, runner: Runner, constrain: Constrain | None = None) -> Engine:
        """Make an engine with nothing to do."""
        config, model = self._loaded.config, self._loaded.checkpoint.config
        groups = self._loaded.mesh.groups
        pools = BlockPools(groups, size.blocks, size.block_size, prefix_caching=config.enable_prefix_caching)
        admission = Admission(
            vocab_size=model.vocab_size,
            max_model_len=size.max_model_len,
            eos_token_ids=model.eos_token_ids,
            seed=config.seed,
            constrain=constrain,
        )
        asynchronous = runner.device.type != "cpu" if config.async_scheduling is None else config.async_scheduling
        return Engine(
            runner,
            Scheduler(self._limits, pools),
            admission,
            asynchronous=asynchronous,
            expert_stats=self._expert_stats,
        )

    def warmed_up(self) -> None:
        """Leave warming up out of what the experts are asked."""
        if self._rebalancing:
            self._rebalancing.forget()

    def _expert_stats(self) -> ExpertStats:
        return self._rebalancing.stats if self._rebalancing else ExpertStats()

    def _budget(self) -> int:
        """Find the bytes that every rank can give to its KV cache."""
        loaded = self._loaded
        step_bytes = self._largest_step_bytes() if loaded.device.type == "cuda" else 0
        if self._followers:
            self._followers.tell(Budget(step_bytes))
        return loaded.mesh.world.least(loaded.cache_budget(step_bytes))

    def _largest_step_bytes(self) -> int:
        """Run one prompt of the whole token budget on a throwaway cache and see what it took at most."""
        config, model = self._loaded.config, self._loaded.checkpoint.config
        tokens = min(self._limits.max_tokens, model.context_length - 1)
        size = KVCacheSize(-(-tokens // config.block_size) + 1, config.block_size, tokens + 1)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        runner = self.runner(size.blocks, replays=None)
        engine = self.engine(size, runner)
        _generate_tokens(engine, [tokens])
        peak = torch.cuda.max_memory_allocated() - before
        del engine, runner
        torch.cuda.empty_cache()
        return peak


def _constraints(checkpoint: Checkpoint) -> Constraints:
    """Sort the vocabulary for grammars while the weights are loaded: it takes a second, and the interpreter with it."""
    vocab_size, eos = checkpoint.config.vocab_size, checkpoint.config.eos_token_ids

    def grammars() -> Grammars:
        return Grammars(Tokenizer.load(checkpoint.model_dir), vocab_size=vocab_size, eos_token_ids=eos)

    return Constraints(grammars, vocab_size=vocab_size, eos_token_ids=eos)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def _limits(config: RuntimeConfig, device: torch.device) -> Limits:
    budget = config.max_num_batched_tokens or max(_DEFAULT_BATCHED_TOKENS[device.type], config.max_num_seqs)
    if budget < config.max_num_seqs:
        raise ConfigError(
            f"--max-num-batched-tokens {budget} must be at least --max-num-seqs {config.max_num_seqs}: "
            "every running sequence needs a token per step"
        )
    return Limits(config.max_num_seqs, budget, max(1, budget // _SHARE_BESIDE_STREAMS))


def _warm_lengths(device: torch.device, size: KVCacheSize) -> list[int]:
    """List the prompts to warm up with; on a GPU several, for kernels are compiled for each size of tile."""
    return [length for length in _WARM_LENGTHS[device.type] if length < size.max_model_len]


def _warm_up(engine: Engine, config: RuntimeConfig, lengths: list[int]) -> None:
    """Generate tokens in every group: what is slow or broken the first time is so before anybody waits for it."""
    groups = config.data_parallel_size
    error = next(filter(None, [_generate_tokens(engine, [length] * groups) for length in lengths]), None)
    if error:
        raise CheckpointError(
            f"{config.model_dir}: the first token failed: {error}; the weights are damaged"
            + (", or --dtype float16 overflows: use bfloat16" if config.dtype == "float16" else "")
        )


def _generate_tokens(engine: Engine, prompts: Sequence[int]) -> str | None:
    """Answer prompts of these lengths with one token each, all at the same time, so that each has a group."""
    sampling = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    for number, length in enumerate(prompts):
        engine.submit(Submit(f"warm-up-{os.getpid()}-{number}", (0,) * length, sampling))
    error = None
    while engine.busy:
        for delta in engine.step().deltas:
            error = error or delta.error
    return error
