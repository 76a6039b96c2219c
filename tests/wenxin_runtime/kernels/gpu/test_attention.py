import dataclasses

import pytest
import torch

from tests.wenxin_runtime.kernels.gpu.steps import close, make_cache, make_step, poison_unused
from wenxin_runtime.kernels.gpu.attention import attend, splits_of
from wenxin_runtime.kernels.gpu.device import Card
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.layers.attention import AttentionInput

DECODES = [(1, 1), (64, 1), (65, 1), (130, 1)]
PROMPTS = [(7, 7), (40, 40)]
CHUNKS = [(50, 13), (33, 2)]

OF_NAN = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy


def check(sequences, heads, kv_heads, head_dim, dtype, device, *, block_size=16):
    step, blocks = make_step(sequences, block_size, device)
    cache = make_cache(blocks, block_size, kv_heads, head_dim, dtype, device)
    rows = step.slots.shape[0]
    qkv = torch.randn(rows, heads + 2 * kv_heads, head_dim).to(device, dtype)
    q = qkv[:, :heads]
    wanted = ReferenceKernels().attend(q.float(), cache.float(), step)
    poison_unused(cache, step)
    got = attend(q, cache, step)
    assert got.shape == (rows, heads * head_dim)
    assert got.dtype == dtype
    close(got, wanted, dtype)


@pytest.mark.parametrize(
    "sequences", [DECODES, PROMPTS, CHUNKS, DECODES + CHUNKS + PROMPTS, [(30, 30), (9, 1), (50, 4), (1, 1)]]
)
def test_equals_the_reference_for_any_mix_of_decodes_prompts_and_chunks(sequences, device):
    check(sequences, 4, 2, 16, torch.float32, device)


def test_equals_the_reference_in_every_dtype(dtype, device):
    check([(70, 1), (20, 3)], 4, 2, 32, dtype, device)


@pytest.mark.parametrize(("heads", "kv_heads"), [(16, 2), (20, 4), (64, 8), (3, 3), (17, 1)])
def test_equals_the_reference_for_every_ratio_of_heads(heads, kv_heads, device):
    check([(20, 1), (9, 5)], heads, kv_heads, 16, torch.float32, device)


@pytest.mark.parametrize("head_dim", [8, 24, 128])
def test_equals_the_reference_for_head_dims_that_fill_no_tile_and_the_familys_own(head_dim, device):
    check([(33, 1), (12, 3)], 4, 2, head_dim, torch.bfloat16, device)


@pytest.mark.parametrize("block_size", [1, 5, 32])
def test_any_block_size_serves(block_size, device):
    check([(33, 1), (12, 3)], 4, 2, 16, torch.float32, device, block_size=block_size)


def test_a_graphs_step_without_spans_gives_the_same_and_padding_becomes_zero(device):
    step, blocks = make_step([(70, 1), (5, 1), (1, 1)], 16, device)
    step.lengths[2] = 0
    cache = make_cache(blocks, 16, 2, 16, torch.float32, device)
    poison_unused(cache, dataclasses.replace(step, spans=step.spans[:2], block_tables=step.block_tables[:2]))
    q = torch.randn(3, 4, 16, device=device)
    wide = torch.nn.functional.pad(step.block_tables, (0, 50))  # room for the longest sequence
    got = attend(q, cache, AttentionInput(step.slots, step.starts, step.lengths, wide, ()))
    wanted = attend(q[:2], cache, make_first(step, 2))
    close(got[:2], wanted, torch.float32)
    assert not got[2].any()


def make_first(step, count):
    return AttentionInput(
        step.slots[:count],
        step.starts[: count + 1],
        step.lengths[:count],
        step.block_tables[:count],
        step.spans[:count],
    )


@OF_NAN
def test_a_sequence_of_nan_harms_no_other(device):
    step, blocks = make_step([(20, 1), (20, 1), (9, 9), (6, 6)], 16, device)
    cache = make_cache(blocks, 16, 2, 16, torch.float32, device)
    q = torch.randn(step.slots.shape[0], 4, 16, device=device)
    wanted = attend(q, cache, step)
    for sequence in (1, 3):
        cache[step.block_tables[sequence].long()[: -(-step.spans[sequence].length // 16)]] = float("nan")
    got = attend(q, cache, step)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[2:11], wanted[2:11])
    assert got[1].isnan().all()
    assert got[11:].isnan().all()


def test_the_splits_fill_the_card_but_none_is_empty():
    card = Card(multiprocessors=132, shared_bytes=227 * 1024)
    assert splits_of(1, 2, 131072, 64, card) == 64
    assert splits_of(1, 2, 640, 64, card) == 10
    assert splits_of(64, 4, 131072, 64, card) == 2
    assert splits_of(256, 8, 131072, 64, card) == 1
    assert splits_of(1, 2, 1, 64, card) == 1
