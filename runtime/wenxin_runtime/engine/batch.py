"""A plan as the flat tensors that a model takes: one row per token, the chunks behind each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wenxin_runtime.engine.flight import Flight
from wenxin_runtime.engine.request import Request
from wenxin_runtime.engine.scheduler import Chunk, Plan
from wenxin_runtime.engine.transfer import to_device
from wenxin_runtime.layers.attention import AttentionInput, Span

# Elements; Triton compiles a kernel anew for every combination of aligned and unaligned arguments.
_ALIGNED = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input.

    Attributes:
        token_ids: int64 [rows].
        positions: Each token's index in its sequence, int64 [rows].
        sampled: The rows whose logits are wanted, int64.
        attention: Which rows belong to which sequence and blocks.
    """

    token_ids: Tensor
    positions: Tensor
    sampled: Tensor
    attention: AttentionInput


def build(plan: Plan, block_size: int, device: torch.device, flight: Flight) -> Batch:
    """Lay out a plan whose chunks own the blocks for their tokens.

    Args:
        plan: At least one chunk.
        block_size: Tokens per block.
        device: Where the model is.
        flight: Where to find the tokens that are planned and not yet known.
    """
    places = flight.places
    counts = np.array([chunk.count for chunk in plan])
    ends = np.array([chunk.end for chunk in plan])
    starts = np.concatenate(([0], counts.cumsum()))
    rows = np.arange(starts[-1])
    positions = rows + np.repeat(ends - starts[1:], counts)
    tables = _block_tables(plan, block_size)
    slots = tables[np.repeat(np.arange(len(plan)), counts), positions // block_size].astype(np.int64) * block_size
    sampled = starts[1:][[chunk.samples for chunk in plan]] - 1
    wide = _upload([_token_ids(plan, places), positions, slots + positions % block_size, sampled], np.int64, device)
    narrow = _upload([starts, ends, tables], np.int32, device)
    token_ids, positions_there, slots_there, sampled_there = wide
    return Batch(
        token_ids=_filled_in(token_ids, flight.drawn.token_ids) if places else token_ids,
        positions=positions_there,
        sampled=sampled_there,
        attention=AttentionInput(
            slots=slots_there,
            starts=narrow[0],
            lengths=narrow[1],
            block_tables=narrow[2],
            spans=tuple(
                Span(int(start), c.count, c.end, c.request.group, _wanted(c))
                for start, c in zip(starts, plan, strict=False)
            ),
        ),
    )


def _wanted(chunk: Chunk) -> int:
    """Count the chunk's rows that are scored: the last one, or all for the logprobs of the prompt."""
    return int(chunk.samples) if chunk.request.reusable else chunk.count


def _token_ids(plan: Plan, places: Mapping[Request, int]) -> NDArray[np.int64]:
    """List the tokens of all chunks; one that is in flight is -1 - its place there."""
    found: list[int] = []
    for chunk in plan:
        known = chunk.request.token_ids
        found += known[chunk.start : chunk.end]
        if chunk.end > len(known):
            found.append(-1 - places[chunk.request])
    return np.array(found, np.int64)


def _filled_in(token_ids: Tensor, in_flight: Tensor) -> Tensor:
    """Put the tokens in flight where `token_ids` names their places, without asking the device what they are.

    One that could not be chosen is computed as token 0: its request ends when it lands.
    """
    there = in_flight[(-1 - token_ids).clamp_(min=0)].clamp_(min=0)
    return torch.where(token_ids < 0, there, token_ids)


def _block_tables(plan: Plan, block_size: int) -> NDArray[np.int32]:
    """List each sequence's blocks up to the step's end, filled up to the longest with 0."""
    used = [-(-chunk.end // block_size) for chunk in plan]
    tables = np.zeros((len(plan), max(used)), np.int32)
    for row, (chunk, count) in enumerate(zip(plan, used, strict=True)):
        tables[row, :count] = chunk.request.table.blocks[:count]
    return tables


def _upload(arrays: list[NDArray[Any]], dtype: type[np.integer[Any]], device: torch.device) -> list[Tensor]:
    """Copy several arrays to the device at once, each to an address that is a multiple of 16 bytes."""
    offsets = np.cumsum([0, *(-(-array.size // _ALIGNED) * _ALIGNED for array in arrays)]).tolist()
    flat = np.zeros(offsets[-1], dtype)
    for offset, array in zip(offsets, arrays, strict=False):
        flat[offset : offset + array.size] = array.reshape(-1)
    there = to_device(flat, torch.int64 if dtype is np.int64 else torch.int32, device)
    return [
        there[offset : offset + array.size].view(array.shape) for offset, array in zip(offsets, arrays, strict=False)
    ]
