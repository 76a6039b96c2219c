import pytest
import torch

from tests.wenxin_runtime.kernels.gpu.steps import make_step
from tests.wenxin_runtime.recorder import Recorder, eager
from wenxin_runtime.engine.graphs import Buffers, DecodeGraphs, buckets

BLOCK_SIZE, BLOCKS, MAX_LEN = 4, 20, 30


@pytest.fixture
def cache():
    return torch.zeros(1, BLOCKS, BLOCK_SIZE, 1)


def decode(lengths, seed=0):
    torch.manual_seed(seed)
    step, _ = make_step([(length, 1) for length in lengths], BLOCK_SIZE, torch.device("cpu"))
    token_ids = torch.arange(len(lengths)) + 10 * (seed + 1)
    return token_ids, torch.tensor(lengths) - 1, step


def test_buckets_are_small_at_first_and_end_with_the_slots_there_are():
    assert buckets(1) == (1,)
    assert buckets(3) == (1, 2, 3)
    assert buckets(32) == (1, 2, 4, 8, 16, 24, 32)
    assert buckets(30) == (1, 2, 4, 8, 16, 24, 30)
    assert buckets(256)[-5:] == (128, 160, 192, 224, 256)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_decode_step_gives_what_the_model_gives_and_is_filled_up_to_a_bucket(count, cache):
    model = Recorder()
    graphs = DecodeGraphs(model, cache, 8, MAX_LEN, eager)
    model.steps.clear()
    token_ids, positions, step = decode(range(1, count + 1))
    got = graphs(token_ids, positions, cache, step)
    other = torch.zeros_like(cache)
    assert torch.equal(got, Recorder()(token_ids, positions, other, step))
    assert torch.equal(cache[:, :-1], other[:, :-1])
    (ran, padded) = model.steps[0]
    assert ran.shape[0] in buckets(8)
    assert padded.spans == ()
    assert padded.lengths[count:].eq(0).all()
    assert padded.slots[count:].eq((BLOCKS - 1) * BLOCK_SIZE).all()


def test_what_a_larger_step_left_in_the_buffers_is_written_nowhere(cache):
    graphs = DecodeGraphs(Recorder(), cache, 8, MAX_LEN, eager)
    token_ids, positions, step = decode([3, 9, 4, 2, 6, 5, 1])
    graphs(token_ids, positions, cache, step)
    cache.zero_()
    token_ids, positions, step = decode([7, 3, 8, 1, 2], seed=1)
    graphs(token_ids, positions, cache, step)
    written = cache.view(-1)[: (BLOCKS - 1) * BLOCK_SIZE].nonzero().flatten()
    assert sorted(written.tolist()) == sorted(step.slots.tolist())


def test_steps_with_prompts_and_steps_beyond_the_largest_bucket_run_as_they_are(cache):
    model = Recorder()
    graphs = DecodeGraphs(model, cache, 2, MAX_LEN, eager)
    for lengths, rows in (([5, 3], [2, 1]), ([1, 2, 3], [1, 1, 1])):
        model.steps.clear()
        step, _ = make_step(list(zip(lengths, rows, strict=True)), BLOCK_SIZE, torch.device("cpu"))
        token_ids = torch.arange(sum(rows))
        graphs(token_ids, token_ids, cache, step)
        assert model.steps[0][1].spans == step.spans


def test_another_cache_than_the_captured_one_is_never_replayed(cache):
    model = Recorder()
    graphs = DecodeGraphs(model, cache, 2, MAX_LEN, eager)
    other = torch.zeros_like(cache)
    token_ids, positions, step = decode([3])
    graphs(token_ids, positions, other, step)
    assert other.count_nonzero() == 1


def test_every_bucket_is_captured_once_and_the_largest_first(cache):
    model = Recorder()
    captured = []

    def capture(run):
        captured.append(run().shape[0])
        return run

    graphs = DecodeGraphs(model, cache, 8, MAX_LEN, capture)
    assert captured == [8, 4, 2, 1]
    assert torch.equal(graphs.logits(torch.ones(1, 3)), torch.full((1, 3), 2.0))


def test_buffers_hold_the_longest_sequence_and_start_as_padding():
    buffers = Buffers.allocate(4, 8, 99, torch.device("cpu"))
    step = buffers.step(2)
    assert step.block_tables.shape == (2, 8)
    assert step.slots.tolist() == [99, 99]
    assert step.starts.tolist() == [0, 1, 2]
    assert step.lengths.tolist() == [0, 0]
