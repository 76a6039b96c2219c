"""Attention over the paged cache: rows that come alone are decoded with the keys split, all others are prefilled.

Both kernels are launched over all sequences of a step and leave those of the other kind alone, so the host decides
nothing that it would have to read from the device: a step can be captured in a CUDA graph.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.device import Card, card
from wenxin_runtime.kernels.gpu.language import LAUNCH, dot, narrow
from wenxin_runtime.layers.attention import AttentionInput

# Programs per multiprocessor that decoding aims at: enough reads in flight to hide the memory's latency.
_PROGRAMS_PER_MULTIPROCESSOR = 2
_MOST_SPLITS = 64
_LOG2_E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a kernel cuts its work: rows (times query heads) and keys per tile, warps per program, pipeline stages."""

    rows: int
    keys: int
    warps: int
    stages: int


def decode_tiles(group: int, head_dim: int, dtype: torch.dtype, on: Card) -> Tiles:
    """Choose for one row per sequence: the query heads of a kv head are the tile's rows, 16 at least."""
    keys = 64 if dtype.itemsize * head_dim <= 256 else 32
    return Tiles(max(16, triton.next_power_of_2(group)), keys, warps=4, stages=3 if on.roomy else 2)


def prefill_tiles(head_dim: int, dtype: torch.dtype, on: Card) -> Tiles:
    """Choose for many rows per sequence."""
    if dtype.itemsize * head_dim > 256:
        return Tiles(32, 32, warps=4, stages=2)
    return Tiles(128, 64, warps=8, stages=3) if on.roomy else Tiles(64, 32, warps=4, stages=2)


def splits_of(sequences: int, kv_heads: int, longest: int, tile_keys: int, on: Card) -> int:
    """Decide into how many parts the keys of each sequence are cut: as many as fill the card, none without a tile.

    Args:
        sequences: How many decode side by side; in a graph, how many it has room for.
        kv_heads: Of the model.
        longest: Tokens of the longest sequence; in a graph, the longest there may be.
        tile_keys: Keys per tile.
        on: The card.
    """
    wanted = triton.cdiv(_PROGRAMS_PER_MULTIPROCESSOR * on.multiprocessors, sequences * kv_heads)
    return int(max(1, min(wanted, triton.cdiv(longest, tile_keys), _MOST_SPLITS)))


def attend(q: Tensor, cache: Tensor, step: AttentionInput) -> Tensor:
    """Compute `Kernels.attend`.

    Args:
        q: [rows, heads, head_dim]; the last two axes are dense, rows may be further apart.
        cache: One layer's, dense.
        step: A sequence of length 0 is padding: its row becomes 0.
    """
    rows, heads, head_dim = q.shape
    out = torch.empty(rows, heads * head_dim, device=q.device, dtype=q.dtype)
    sequences = step.lengths.shape[0]
    if not step.spans or any(span.count == 1 for span in step.spans):
        _decode(q, cache, step, out)
    if rows > sequences:
        _prefill(q, cache, step, out)
    return out


def _decode(q: Tensor, cache: Tensor, step: AttentionInput, out: Tensor) -> None:
    _, heads, head_dim = q.shape
    _, block_size, keys_and_values, _ = cache.shape
    sequences, kv_heads = step.lengths.shape[0], keys_and_values // 2
    group, on = heads // kv_heads, card(q.device)
    tiles = decode_tiles(group, head_dim, q.dtype, on)
    longest = max((span.length for span in step.spans), default=step.block_tables.shape[1] * block_size)
    splits = splits_of(sequences, kv_heads, longest, tiles.keys, on)
    # Parts of the result, and the logarithm of what each weighs; float32, so that nothing is lost on the way.
    parts = torch.empty(sequences if splits > 1 else 0, heads, splits, head_dim, device=q.device)
    weights = torch.empty(sequences if splits > 1 else 0, heads, splits, device=q.device)
    decode_kernel[(sequences, kv_heads, splits)](
        q, cache, step.starts, step.lengths, step.block_tables, out, parts, weights,
        q.stride(0), step.block_tables.stride(0), head_dim**-0.5 * _LOG2_E,
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, block_d=_padded(head_dim), block_size=block_size,
        splits=splits, block_m=tiles.rows, block_n=tiles.keys,
        num_warps=tiles.warps, num_stages=tiles.stages, **LAUNCH,
    )  # fmt: skip
    if splits > 1:
        combine_kernel[(sequences, heads)](
            step.starts, step.lengths, out, parts, weights,
            heads=heads, head_dim=head_dim, block_d=_padded(head_dim), splits=splits,
            block_s=triton.next_power_of_2(splits), block_n=tiles.keys, num_warps=4, **LAUNCH,
        )  # fmt: skip


def _prefill(q: Tensor, cache: Tensor, step: AttentionInput, out: Tensor) -> None:
    rows, heads, head_dim = q.shape
    _, block_size, keys_and_values, _ = cache.shape
    sequences, kv_heads = step.lengths.shape[0], keys_and_values // 2
    tiles = prefill_tiles(head_dim, q.dtype, card(q.device))
    block_m = max(tiles.rows, triton.next_power_of_2(heads // kv_heads))
    block_q = block_m // (heads // kv_heads)
    prefill_kernel[(rows // block_q + sequences, kv_heads)](
        q, cache, step.starts, step.lengths, step.block_tables, out,
        q.stride(0), step.block_tables.stride(0), sequences, head_dim**-0.5 * _LOG2_E,
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, block_d=_padded(head_dim), block_size=block_size,
        block_q=block_q, block_m=block_m, block_n=tiles.keys,
        num_warps=tiles.warps, num_stages=tiles.stages, **LAUNCH,
    )  # fmt: skip


def _padded(head_dim: int) -> int:
    return max(16, int(triton.next_power_of_2(head_dim)))


@triton.jit
def _see(
    q: tl.tensor, last: tl.tensor, acc: tl.tensor, peak: tl.tensor, mass: tl.tensor, cache: tl.tensor, table: tl.tensor,
    first: tl.tensor, end: tl.tensor, length: tl.tensor, scale: tl.tensor, kv_head: tl.tensor, kv_heads: tl.constexpr,
    head_dim: tl.constexpr, block_d: tl.constexpr, block_size: tl.constexpr, block_n: tl.constexpr,
    masked: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Take the keys first..end into a running softmax (Milakov and Gimelshein 2018).

    q [block_m, block_d] sees keys up to last [block_m]; acc [block_m, block_d] is the sum of values so far, each times
    exp2(score - peak), mass [block_m] that of the weights, peak [block_m] the largest score, all in float32. Unless
    `masked`, first and end are whole tiles apart and every row sees every key between them. What lies behind `length`
    in the cache may be anything, NaN too, and is not read. scale is log2(e) / sqrt(head_dim).
    """
    d = tl.arange(0, block_d)
    for start in range(first, end, block_n):
        n = start + tl.arange(0, block_n)
        held = n < length if masked else n >= 0
        block = tl.load(table + n // block_size, mask=held, other=0).to(tl.int64)
        token = (block * block_size + n % block_size) * (2 * kv_heads)
        dims = d[None, :] < head_dim
        keys = tl.load(cache + (token + kv_head)[:, None] * head_dim + d[None, :], mask=held[:, None] & dims, other=0.0)
        scores = dot(q, tl.trans(keys), tl.zeros((q.shape[0], block_n), tl.float32)) * scale
        if masked:
            scores = tl.where(n[None, :] <= last[:, None], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(peak - higher)
        values = tl.load(
            cache + (token + kv_heads + kv_head)[:, None] * head_dim + d[None, :], mask=held[:, None] & dims, other=0.0
        )
        acc = dot(narrow(weights, values.dtype), values, acc * fade[:, None])
        mass = mass * fade + tl.sum(weights, 1)
        peak = higher
    return acc, peak, mass


_INDICES = ["starts", "lengths", "tables"]


@triton.jit(do_not_specialize_on_alignment=_INDICES)
def decode_kernel(
    q: tl.tensor, cache: tl.tensor, starts: tl.tensor, lengths: tl.tensor, tables: tl.tensor,
    out: tl.tensor, parts: tl.tensor, part_weights: tl.tensor,
    q_stride: tl.tensor, table_stride: tl.tensor, scale: tl.tensor,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_d: tl.constexpr,
    block_size: tl.constexpr, splits: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
) -> None:  # fmt: skip
    """Decode one split of one sequence for the query heads of one kv head; grid (sequences, kv_heads, splits)."""
    sequence, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, length = tl.load(starts + sequence), tl.load(lengths + sequence)
    if tl.load(starts + sequence + 1) - row != 1:
        return  # the prefill kernel's
    # A whole number of tiles per split, so that only the sequence's very last tile is masked.
    share = tl.cdiv(tl.cdiv(length, block_n), splits) * block_n
    first = split * share
    end = tl.minimum(first + share, length)
    if first >= length and (splits > 1 or length > 0):
        return
    group: tl.constexpr = heads // kv_heads
    m, d = tl.arange(0, block_m), tl.arange(0, block_d)
    head = kv_head * group + m
    there = (m < group)[:, None] & (d < head_dim)[None, :]
    queries = tl.load(q + row.to(tl.int64) * q_stride + head[:, None] * head_dim + d[None, :], mask=there, other=0.0)
    acc = tl.zeros((block_m, block_d), tl.float32)
    peak = tl.full((block_m,), float("-inf"), tl.float32)
    mass = tl.zeros((block_m,), tl.float32)
    last = tl.zeros((block_m,), tl.int32) + (length - 1)
    table = tables + sequence.to(tl.int64) * table_stride
    whole = first + (end - first) // block_n * block_n
    acc, peak, mass = _see(
        queries, last, acc, peak, mass, cache, table, first, whole, length, scale, kv_head, kv_heads,
        head_dim, block_d, block_size, block_n, masked=False,
    )  # fmt: skip
    acc, peak, mass = _see(
        queries, last, acc, peak, mass, cache, table, whole, end, length, scale, kv_head, kv_heads,
        head_dim, block_d, block_size, block_n, masked=True,
    )  # fmt: skip
    mean = acc / tl.where(mass == 0, 1.0, mass)[:, None]  # no key at all: padding, which becomes 0
    if splits == 1:
        tl.store(
            out + row.to(tl.int64) * (heads * head_dim) + head[:, None] * head_dim + d[None, :],
            narrow(mean, out.dtype.element_ty),
            mask=there,
        )
    else:
        part = (sequence.to(tl.int64) * heads + head) * splits + split
        tl.store(parts + part[:, None] * head_dim + d[None, :], mean, mask=there)
        tl.store(part_weights + part, peak + tl.log2(mass), mask=m < group)


@triton.jit(do_not_specialize_on_alignment=_INDICES)
def combine_kernel(
    starts: tl.tensor, lengths: tl.tensor, out: tl.tensor, parts: tl.tensor, part_weights: tl.tensor,
    heads: tl.constexpr, head_dim: tl.constexpr, block_d: tl.constexpr, splits: tl.constexpr, block_s: tl.constexpr,
    block_n: tl.constexpr,
) -> None:  # fmt: skip
    """Weigh the splits of one head against each other, always in the same order; grid (sequences, heads)."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    row, length = tl.load(starts + sequence), tl.load(lengths + sequence)
    if tl.load(starts + sequence + 1) - row != 1:
        return
    share = tl.cdiv(tl.cdiv(length, block_n), splits) * block_n
    s, d = tl.arange(0, block_s), tl.arange(0, block_d)
    used = (s < splits) & (s * share < length)
    part = (sequence.to(tl.int64) * heads + head) * splits + s
    weights = tl.load(part_weights + part, mask=used, other=float("-inf"))
    weights = tl.exp2(weights - tl.maximum(tl.max(weights, 0), -1e30))
    there = used[:, None] & (d < head_dim)[None, :]
    values = tl.load(parts + part[:, None] * head_dim + d[None, :], mask=there, other=0.0)
    total = tl.sum(weights, 0)
    mean = tl.sum(values * weights[:, None], 0) / tl.where(total == 0, 1.0, total)
    where = out + (row.to(tl.int64) * heads + head) * head_dim + d
    tl.store(where, narrow(mean, out.dtype.element_ty), mask=d < head_dim)


@triton.jit
def _sequence_of(starts: tl.tensor, sequences: tl.tensor, index: tl.tensor, block_q: tl.constexpr) -> tl.tensor:
    """Find whose rows block `index` has, where sequence i has the blocks from starts[i] // block_q + i on.

    That is enough for its rows, whatever their count, and the host need not know it.
    """
    low = 0
    high = sequences
    while low < high:
        middle = (low + high) // 2
        if tl.load(starts + middle) // block_q + middle <= index:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit(do_not_specialize=["sequences"], do_not_specialize_on_alignment=_INDICES)
def prefill_kernel(
    q: tl.tensor, cache: tl.tensor, starts: tl.tensor, lengths: tl.tensor, tables: tl.tensor, out: tl.tensor,
    q_stride: tl.tensor, table_stride: tl.tensor, sequences: tl.tensor, scale: tl.tensor,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_d: tl.constexpr,
    block_size: tl.constexpr, block_q: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
) -> None:  # fmt: skip
    """Attend with block_q rows of one sequence, all query heads of one kv head at once.

    Grid (rows // block_q + sequences, kv_heads). The last blocks see the most keys and start first.
    """
    index = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = _sequence_of(starts, sequences, index, block_q)
    start, length = tl.load(starts + sequence), tl.load(lengths + sequence)
    count = tl.load(starts + sequence + 1) - start
    first = (index - start // block_q - sequence) * block_q
    if count == 1 or first >= count:
        return
    group: tl.constexpr = heads // kv_heads
    m, d = tl.arange(0, block_m), tl.arange(0, block_d)
    row = first + m // group
    real = (m // group < block_q) & (row < count)
    head = kv_head * group + m % group
    there = real[:, None] & (d < head_dim)[None, :]
    line = (start + row).to(tl.int64)
    queries = tl.load(q + line[:, None] * q_stride + head[:, None] * head_dim + d[None, :], mask=there, other=0.0)
    acc = tl.zeros((block_m, block_d), tl.float32)
    peak = tl.full((block_m,), float("-inf"), tl.float32)
    mass = tl.zeros((block_m,), tl.float32)
    before = length - count  # tokens that were in the cache already
    last = tl.where(real, before + row, 0)  # rows of padding see key 0, so that their softmax is one
    table = tables + sequence.to(tl.int64) * table_stride
    end = tl.minimum(before + first + block_q, length)
    whole = (before + first + 1) // block_n * block_n  # up to here every row sees every key
    acc, peak, mass = _see(
        queries, last, acc, peak, mass, cache, table, 0, whole, length, scale, kv_head, kv_heads,
        head_dim, block_d, block_size, block_n, masked=False,
    )  # fmt: skip
    acc, peak, mass = _see(
        queries, last, acc, peak, mass, cache, table, whole, end, length, scale, kv_head, kv_heads,
        head_dim, block_d, block_size, block_n, masked=True,
    )  # fmt: skip
    where = out + line[:, None] * (heads * head_dim) + head[:, None] * head_dim + d[None, :]
    tl.store(where, narrow(acc / mass[:, None], out.dtype.element_ty), mask=there)
