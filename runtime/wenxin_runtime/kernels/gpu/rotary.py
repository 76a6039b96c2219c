"""Interleaved rotary embedding and the write into the cache: one pass over what the fused projection gave."""

import triton
import triton.language as tl
from torch import Tensor

from wenxin_runtime.kernels.gpu.language import LAUNCH, narrow

_HEADS_PER_PROGRAM = 4


def rotate_and_write_(qkv: Tensor, turns: Tensor, cache: Tensor, slots: Tensor, num_heads: int) -> None:
    """Compute `Kernels.rotate_and_write_`; qkv, turns and cache are dense."""
    rows, all_heads, head_dim = qkv.shape
    rotate_and_write_kernel[(rows, triton.cdiv(all_heads, _HEADS_PER_PROGRAM))](
        qkv, turns, cache, slots,
        heads=num_heads, kv_heads=(all_heads - num_heads) // 2, head_dim=head_dim,
        block_d=triton.next_power_of_2(head_dim), block_h=_HEADS_PER_PROGRAM, num_warps=2, **LAUNCH,
    )  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=["slots"])
def rotate_and_write_kernel(
    qkv: tl.tensor, turns: tl.tensor, cache: tl.tensor, slots: tl.tensor,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_d: tl.constexpr, block_h: tl.constexpr,
) -> None:  # fmt: skip
    """Turn block_h heads of one row; those that are keys or values go into the row's slot; grid (rows, head blocks).

    A thread reads a pair with one load and keeps both halves, so turning in place races with no other thread.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * block_h + tl.arange(0, block_h)
    d = tl.arange(0, block_d)
    there = (head < heads + 2 * kv_heads)[:, None] & (d < head_dim)[None, :]
    where = qkv + (row * (heads + 2 * kv_heads) + head)[:, None] * head_dim + d[None, :]
    x = tl.load(where, mask=there, other=0.0)
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (block_h, block_d // 2, 2)))
    turn = tl.load(turns + row * head_dim + d, mask=d < head_dim, other=0.0)
    cos, sin = tl.split(tl.reshape(turn, (block_d // 2, 2)))
    cos, sin = cos[None, :], sin[None, :]
    turned = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (block_h, block_d))
    turned = narrow(turned, x.dtype)
    turns_too = (head < heads + kv_heads)[:, None]
    tl.store(where, turned, mask=there & turns_too)
    slot = tl.load(slots + row) * (2 * kv_heads)
    kept = cache + (slot + head - heads)[:, None] * head_dim + d[None, :]
    tl.store(kept, tl.where(turns_too, turned, x), mask=there & (head >= heads)[:, None])
