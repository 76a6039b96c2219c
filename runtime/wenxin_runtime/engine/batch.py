"""A plan as the flat tensors that a model takes: one row per token, the chunks behind each other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wenxin_runtime.engine.scheduler import Chunk, Plan
from wenxin_runtime.layers.attention import AttentionInput, Span


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input.

    Attributes:
        token_ids: int64 [rows].
        positions: Each token's index in its sequence, int64 [rows].
        attention: Which rows belong to which sequence and blocks.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionInput


def build(plan: Plan, block_size: int, device: torch.device, dtype: torch.dtype) -> Batch:
    """Lay out a plan whose chunks own the blocks for their tokens.

    Args:
        plan: At least one chunk.
        block_size: Tokens per block.
        device: Where the model is.
        dtype: The model's, which masks take.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    for chunk in plan:
        spans.append(_span(chunk, len(token_ids), block_size, device, dtype))
        blocks = chunk.request.table.blocks
        token_ids += chunk.request.token_ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
        slots += [blocks[p // block_size] * block_size + p % block_size for p in range(chunk.start, chunk.end)]
    return Batch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.tensor(positions, device=device),
        attention=AttentionInput(torch.tensor(slots, device=device), tuple(spans)),
    )


def _span(chunk: Chunk, row: int, block_size: int, device: torch.device, dtype: torch.dtype) -> Span:
    blocks = chunk.request.table.blocks[: -(-chunk.end // block_size)]
    mask = None
    if chunk.start and chunk.count > 1:  # else causal order from key 0, or one row that sees everything
        hidden = torch.full((chunk.count, chunk.end), float("-inf"), dtype=dtype, device=device)
        mask = hidden.triu(chunk.start + 1)
    return Span(row, chunk.count, chunk.end, torch.tensor(blocks, device=device), mask)
