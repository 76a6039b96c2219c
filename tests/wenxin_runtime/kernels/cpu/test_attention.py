import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.kernels.cpu.nearness import close
from tests.wenxin_runtime.kernels.gpu.steps import lay_out, make_cache, make_step, poison_unused
from wenxin_runtime.kernels.cpu.kernels import CpuKernels
from wenxin_runtime.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")
DECODES = [(1, 1), (63, 1), (64, 1), (65, 1), (300, 1)]
PROMPTS = [(7, 7), (40, 40), (70, 70)]
CHUNKS = [(50, 13), (150, 2)]
LONG = [(1024, 1), (1025, 1), (2100, 3), (1060, 70)]


def check(kernels, sequences, heads, kv_heads, head_dim, dtype, *, block_size=16):
    step, blocks = make_step(sequences, block_size, CPU)
    cache = make_cache(blocks, block_size, kv_heads, head_dim, dtype, CPU)
    qkv = torch.randn(step.slots.shape[0], heads + 2 * kv_heads, head_dim).to(dtype)
    q = qkv[:, :heads]
    wanted = ReferenceKernels().attend(q.float(), cache.float(), step)
    poison_unused(cache, step)
    got = kernels.attend(q, cache, step)
    assert got.dtype == dtype
    close(got, wanted)


@pytest.mark.parametrize("sequences", [DECODES, PROMPTS, CHUNKS, LONG, DECODES + CHUNKS + PROMPTS])
def test_equals_the_reference_for_any_mix_of_decodes_prompts_and_chunks(kernels, dtype, sequences):
    check(kernels, sequences, 4, 2, 32, dtype)


@pytest.mark.parametrize(("heads", "kv_heads"), [(16, 2), (20, 4), (64, 8), (3, 3), (17, 1), (128, 1)])
def test_equals_the_reference_for_every_ratio_of_heads(kernels, heads, kv_heads):
    check(kernels, [(20, 1), (90, 5)], heads, kv_heads, 16, torch.float32)


@pytest.mark.parametrize("head_dim", [2, 8, 24, 64, 80, 128, 256])
def test_equals_the_reference_for_head_dims_that_fill_no_panel(kernels, dtype, head_dim):
    check(kernels, [(33, 1), (72, 3)], 4, 2, head_dim, dtype)


@pytest.mark.parametrize("block_size", [1, 5, 32, 100])
def test_any_block_size_serves(kernels, block_size):
    check(kernels, [(133, 1), (72, 3)], 4, 2, 16, torch.float32, block_size=block_size)


def one_sequence(length, count, table, cache, q, kernels):
    return kernels.attend(q[length - count : length], cache, lay_out([(length, count)], [table], 16, CPU))


def test_a_row_is_the_same_whatever_chunk_it_came_in_and_whoever_is_in_the_batch(kernels, dtype):
    length = 1200  # two parts, of which a chunk may see the border
    table = torch.randperm(80).tolist()
    cache = make_cache(81, 16, 2, 32, dtype, CPU)
    q = torch.randn(length, 8, 32).to(dtype)
    whole = one_sequence(length, length, table, cache, q, kernels)
    for end, count in ((length, 1), (1025, 1), (1024, 1), (1030, 40), (300, 77)):
        assert torch.equal(one_sequence(end, count, table, cache, q, kernels), whole[end - count : end])
    both = lay_out([(1030, 40), (length, 1)], [table, table], 16, CPU)
    mixed = kernels.attend(torch.cat([q[990:1030], q[length - 1 :]]), cache, both)
    assert torch.equal(mixed, torch.cat([whole[990:1030], whole[length - 1 :]]))


def test_a_query_that_is_not_a_number_shows_and_spoils_no_other(kernels, dtype):
    step, blocks = make_step([(70, 1), (9, 1)], 16, CPU)
    cache = make_cache(blocks, 16, 2, 32, dtype, CPU)
    q = torch.randn(2, 4, 32).to(dtype)
    clean = kernels.attend(q, cache, step)
    q[0] = float("nan")
    spoilt = kernels.attend(q, cache, step)
    assert spoilt[0].isnan().all()
    assert torch.equal(spoilt[1], clean[1])


def test_scores_far_apart_neither_overflow_nor_vanish(kernels):
    step, blocks = make_step([(200, 1)], 16, CPU)
    cache = make_cache(blocks, 16, 1, 32, torch.float32, CPU) * 60
    q = torch.randn(1, 2, 32) * 60
    close(kernels.attend(q, cache, step), ReferenceKernels().attend(q, cache, step), 1e-5)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40)), min_size=1, max_size=5),
    shape=st.sampled_from([(4, 2), (3, 3), (7, 1)]),
    block_size=st.integers(1, 20),
)
def test_any_step_equals_the_reference(compiled, lengths, shape, block_size):
    sequences = [(length, min(count, length)) for length, count in lengths]
    check(CpuKernels(compiled), sequences, *shape, 16, torch.float32, block_size=block_size)
