"""A plan as the flat tensors that a model takes: one row per token, the chunks behind each other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wenxin_runtime.engine.scheduler import Plan
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


def build(plan: Plan, block_size: int, device: torch.device) -> Batch:
    """Lay out a plan whose chunks own the blocks for their tokens.

    Args:
        plan: At least one chunk.
        block_size: Tokens per block.
        device: Where the model is.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    for chunk in plan:
        spans.append(Span(len(token_ids), chunk.count, chunk.end))
        blocks = chunk.request.table.blocks
        token_ids += chunk.request.token_ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
        slots += [blocks[p // block_size] * block_size + p % block_size for p in range(chunk.start, chunk.end)]
    starts = [*(span.start for span in spans), len(token_ids)]
    return Batch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.tensor(positions, device=device),
        attention=AttentionInput(
            slots=torch.tensor(slots, device=device),
            starts=torch.tensor(starts, dtype=torch.int32, device=device),
            lengths=torch.tensor([span.length for span in spans], dtype=torch.int32, device=device),
            block_tables=torch.tensor(_block_tables(plan, block_size), dtype=torch.int32, device=device),
            spans=tuple(spans),
        ),
    )


def _block_tables(plan: Plan, block_size: int) -> list[list[int]]:
    """List each sequence's blocks up to the step's end, filled up to the longest with 0."""
    used = [chunk.request.table.blocks[: -(-chunk.end // block_size)] for chunk in plan]
    most = max(len(blocks) for blocks in used)
    return [blocks + [0] * (most - len(blocks)) for blocks in used]
