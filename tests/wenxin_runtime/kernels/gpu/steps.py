"""Steps of a model made of numbers: sequences that have some tokens in a scattered cache and bring some more."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wenxin_runtime.layers.attention import AttentionInput, Span


def make_step(
    sequences: Sequence[tuple[int, int]], block_size: int, device: torch.device
) -> tuple[AttentionInput, int]:
    """Lay out sequences of (tokens in the cache, the step's included; rows in this step) over shuffled blocks.

    Returns:
        The step, and how many blocks its cache needs.
    """
    needed = [-(-length // block_size) for length, _ in sequences]
    total = sum(needed) + 1
    free = torch.randperm(total).tolist()
    tables = [[free.pop() for _ in range(count)] for count in needed]
    return lay_out(sequences, tables, block_size, device), total


def lay_out(
    sequences: Sequence[tuple[int, int]], tables: Sequence[Sequence[int]], block_size: int, device: torch.device
) -> AttentionInput:
    """Describe a step of sequences as in `make_step`, whose blocks are given."""
    spans: list[Span] = []
    slots: list[int] = []
    for (length, count), table in zip(sequences, tables, strict=True):
        spans.append(Span(spans[-1].start + spans[-1].count if spans else 0, count, length))
        slots += [table[p // block_size] * block_size + p % block_size for p in range(length - count, length)]
    widest = max(len(table) for table in tables)
    return AttentionInput(
        slots=torch.tensor(slots, device=device),
        starts=torch.tensor([0, *(s.start + s.count for s in spans)], dtype=torch.int32, device=device),
        lengths=torch.tensor([s.length for s in spans], dtype=torch.int32, device=device),
        block_tables=torch.tensor(
            [[*table, *([0] * (widest - len(table)))] for table in tables], dtype=torch.int32, device=device
        ),
        spans=tuple(spans),
    )


def make_cache(
    blocks: int, block_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Make one layer's cache."""
    return torch.randn(blocks, block_size, 2 * kv_heads, head_dim).to(device, dtype)


def poison_unused(cache: Tensor, step: AttentionInput) -> None:
    """Put NaN wherever no token of the step's sequences lies: blocks hold what other sequences left."""
    block_size = cache.shape[1]
    used = torch.zeros(cache.shape[0] * block_size, dtype=torch.bool, device=cache.device)
    for span, table in zip(step.spans, step.block_tables.long(), strict=True):
        p = torch.arange(span.length, device=cache.device)
        used[table[p // block_size] * block_size + p % block_size] = True
    cache.view(-1, *cache.shape[2:])[~used] = float("nan")


def close(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """Hold `got` against a reference, by the precision of `dtype`."""
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    got, wanted = got.double(), wanted.double()
    error = (got - wanted).norm() / wanted.norm()
    assert error < tolerance, f"relative error {error:.2e}, most {(got - wanted).abs().max():.2e}"
