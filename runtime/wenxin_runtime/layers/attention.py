"""Attention over a paged KV cache, in plain torch: the reference for every kernel, and what runs on a CPU.

The cache of one layer is [blocks, block_size, 2 * kv_heads, head_dim]: a token's keys, then its values, side by side,
so that a sequence's blocks are gathered with one copy.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one sequence in a step.

    Attributes:
        start: First row.
        count: Number of rows; they are the sequence's last tokens.
        length: Tokens of the sequence in the cache, these rows included.
        group: Data-parallel group that has the sequence in its cache.
        wanted: How many of the rows, the last ones, are looked at behind the model.
    """

    start: int
    count: int
    length: int
    group: int = 0
    wanted: int = 0


@dataclass(frozen=True, slots=True)
class AttentionInput:
    """What attention has to know about a step besides queries, keys and values.

    Attributes:
        slots: Where each row's keys and values go: block * block_size + offset, int64 [rows].
        starts: First row of each sequence, then the number of rows, int32 [sequences + 1].
        lengths: Tokens of each sequence in the cache, the step's own included, int32 [sequences].
        block_tables: Each sequence's blocks in order, int32 [sequences, most blocks], filled up with 0.
        spans: Starts and lengths once more, for decisions on the host; the rows cover the step, group by group.
    """

    slots: Tensor
    starts: Tensor
    lengths: Tensor
    block_tables: Tensor
    spans: tuple[Span, ...]


def write_kv(cache: Tensor, slots: Tensor, kv: Tensor) -> None:
    """Put kv [rows, 2 * kv_heads, head_dim] into their slots."""
    cache.view(-1, *cache.shape[2:]).index_copy_(0, slots, kv)


def attend(q: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
    """Let every row see the tokens of its sequence up to itself, scaled by 1/sqrt(head_dim).

    Args:
        q: [rows, heads, head_dim].
        cache: One layer's cache; the rows' own keys and values are in it already.
        step: Where each sequence lies.

    Returns:
        [rows, heads * head_dim].
    """
    out = torch.empty_like(q)
    for span, table in zip(step.spans, step.block_tables.long(), strict=True):
        rows = slice(span.start, span.start + span.count)
        out[rows] = _attend_one(q[rows], _gather(cache, table, span.length), span)
    return out.flatten(1)


def _gather(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """Collect a sequence's [length, 2 * kv_heads, head_dim]."""
    blocks = table[: -(-length // cache.shape[1])]
    return cache.index_select(0, blocks).flatten(0, 1)[:length]


def _attend_one(q: Tensor, kv: Tensor, span: Span) -> Tensor:
    kv_heads = kv.shape[1] // 2
    keys, values = kv.transpose(0, 1).unsqueeze(0).chunk(2, dim=1)  # [1, kv_heads, length, head_dim]
    if span.count == 1:
        # The query heads that share a kv head are the rows of one small product, so keys and values are read once.
        grouped = q.view(1, kv_heads, -1, q.shape[2])
        return F.scaled_dot_product_attention(grouped, keys, values).view(q.shape)
    from_start = span.count == span.length
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0),
        keys,
        values,
        attn_mask=None if from_start else _causal(span, q.device),
        is_causal=from_start,
        enable_gqa=True,
    )
    return out.squeeze(0).transpose(0, 1)


def _causal(span: Span, device: torch.device) -> Tensor:
    """Say which keys each row sees, bool [count, length]: all up to its own."""
    return torch.ones(span.count, span.length, dtype=torch.bool, device=device).tril(span.length - span.count)
