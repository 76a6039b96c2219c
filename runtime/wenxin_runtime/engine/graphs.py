"""Decode steps as CUDA graphs: one launch replays hundreds of kernels, which a host alone cannot launch fast enough.

A graph repeats what was captured, with the same addresses and sizes. So every decode step is copied into the same
buffers and filled up to the next size that was captured; steps with prompts, and larger ones, run as they are.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from wenxin_runtime.engine.runner import Model
from wenxin_runtime.layers.attention import AttentionInput

logger = logging.getLogger(__name__)

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]
"""Takes a step on fixed buffers and gives what repeats it; both return the step's hidden states."""

_STEP = 8
_COARSE_FROM, _COARSE_STEP = 128, 32


def buckets(most: int) -> tuple[int, ...]:
    """List the sizes of batch that are captured: 1, 2, 4, then every eighth, coarser where a few rows cost little."""
    sizes = [1, 2, 4, *range(_STEP, _COARSE_FROM, _STEP), *range(_COARSE_FROM, most, _COARSE_STEP)]
    return (*(size for size in sizes if size < most), most)


@dataclass(frozen=True, slots=True)
class Buffers:
    """The input of every replayed step, for the largest bucket; a smaller one uses the first rows.

    Rows of padding write their keys and values to `scratch_slot`, which no sequence has, and see no token.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    starts: Tensor
    lengths: Tensor
    block_tables: Tensor
    scratch_slot: int

    @classmethod
    def allocate(cls, rows: int, blocks: int, scratch_slot: int, device: torch.device) -> "Buffers":
        """Make buffers of padding for `rows` sequences of at most `blocks` blocks."""
        zeros = partial(torch.zeros, device=device)
        return cls(
            token_ids=zeros(rows, dtype=torch.int64),
            positions=zeros(rows, dtype=torch.int64),
            slots=torch.full((rows,), scratch_slot, dtype=torch.int64, device=device),
            starts=torch.arange(rows + 1, dtype=torch.int32, device=device),
            lengths=zeros(rows, dtype=torch.int32),
            block_tables=zeros(rows, blocks, dtype=torch.int32),
            scratch_slot=scratch_slot,
        )

    def load(self, token_ids: Tensor, positions: Tensor, step: AttentionInput, bucket: int) -> None:
        """Copy a decode step, one row per sequence, and make padding of the bucket's other rows."""
        rows, blocks = step.block_tables.shape
        self.token_ids[:rows] = token_ids
        self.positions[:rows] = positions
        self.slots[:rows] = step.slots
        self.lengths[:rows] = step.lengths
        self.block_tables[:rows, :blocks] = step.block_tables
        if rows < bucket:
            # What an earlier step left there would be written into blocks that are others' by now.
            self.slots[rows:bucket] = self.scratch_slot
            self.lengths[rows:bucket] = 0

    def step(self, bucket: int) -> AttentionInput:
        """Describe the first `bucket` rows; the host knows nothing of them, so there are no spans."""
        return AttentionInput(
            self.slots[:bucket], self.starts[: bucket + 1], self.lengths[:bucket], self.block_tables[:bucket], ()
        )


class DecodeGraphs:
    """A model that replays its decode steps. It is called as the model it wraps, with the cache it was captured on."""

    def __init__(self, model: Model, kv_cache: Tensor, max_num_seqs: int, max_model_len: int, capture: Capture) -> None:
        """Capture every bucket, the largest first: the smaller ones fit into its memory.

        Args:
            model: Its kernels take a step without spans, and read nothing back to the host.
            kv_cache: [layers, blocks, block_size, ...]; the last block is no sequence's.
            max_num_seqs: Largest decode step.
            max_model_len: Longest sequence.
            capture: `cuda_capture()`, or what runs the step anew each time.
        """
        _, blocks, block_size = kv_cache.shape[:3]
        self._model = model
        self._kv_cache = kv_cache
        self._buckets = buckets(max_num_seqs)
        self._buffers = Buffers.allocate(
            max_num_seqs, -(-max_model_len // block_size), (blocks - 1) * block_size, kv_cache.device
        )
        begun = time.perf_counter()
        with torch.inference_mode():
            self._graphs = {bucket: capture(partial(self._run, bucket)) for bucket in reversed(self._buckets)}
        logger.info(
            "captured %d graphs for decoding up to %d sequences in %.1f s (--enforce-eager does without)",
            len(self._buckets),
            max_num_seqs,
            time.perf_counter() - begun,
        )

    def __call__(self, token_ids: Tensor, positions: Tensor, kv_cache: Tensor, step: AttentionInput) -> Tensor:
        """Compute hidden states [rows, hidden] as the model does; a replayed step's are valid until the next call."""
        rows = token_ids.shape[0]
        decodes = 0 < rows == step.lengths.shape[0]
        if not decodes or rows > self._buckets[-1] or kv_cache is not self._kv_cache:
            return self._model(token_ids, positions, kv_cache, step)
        bucket = self._buckets[bisect_left(self._buckets, rows)]
        self._buffers.load(token_ids, positions, step, bucket)
        return self._graphs[bucket]()[:rows]

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the vocabulary as the model does."""
        return self._model.logits(hidden)

    def _run(self, bucket: int) -> Tensor:
        buffers = self._buffers
        return self._model(buffers.token_ids[:bucket], buffers.positions[:bucket], self._kv_cache, buffers.step(bucket))


def cuda_capture() -> Capture:
    """Make a capture whose graphs share one pool of memory: only one of them runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(run: Run) -> Run:
        run()  # compiles kernels and makes the libraries' handles, neither of which a capture allows
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            out = run()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return capture
