"""Which sums go over peer memory. The kernel itself needs two GPUs."""

import pytest
import torch

from wenxin_runtime.parallel.peer_memory import MOST_BYTES, over_peer_memory, takes


class Pair:
    """Rank 0 of two whose other rank could."""

    rank, size = 0, 2
    join = spread_ = exchange = None

    def least(self, number: int) -> int:
        return number

    def sum_(self, x):
        return f"{x.numel()} elements over NCCL"


def with_twice_as_much(buffer):
    """A kernel's stand-in: the other rank has two for each one of ours."""

    def add(part, x):
        assert part.data_ptr() == buffer.data_ptr()
        assert (part.shape, part.dtype) == (x.shape, x.dtype)
        part.copy_(x)
        x.copy_(3 * part)

    return buffer, add


def test_a_small_aligned_float_tensor_is_taken():
    assert takes(torch.zeros(1, 1024))
    assert takes(torch.zeros(16, 8192, dtype=torch.bfloat16))
    assert takes(torch.zeros(MOST_BYTES // 4))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(MOST_BYTES // 4 + 4),
        torch.zeros(0),
        torch.zeros(3),
        torch.zeros(8, dtype=torch.float16),
        torch.zeros(8, dtype=torch.int64),
        torch.zeros(9)[1:],
        torch.zeros(8, 8).t(),
    ],
    ids=["too large", "empty", "three floats", "float16", "int64", "at an odd address", "transposed"],
)
def test_whatever_else_stays_with_nccl(x):
    assert not takes(x)


def test_ranks_on_several_machines_stay_with_nccl():
    pair = Pair()
    assert over_peer_memory(pair, None, [], reaches=lambda *_: pytest.fail("no card to ask about")) is pair


def test_cards_that_cannot_access_each_other_stay_with_nccl():
    pair, asked = Pair(), []
    assert over_peer_memory(pair, None, [4, 5], reaches=lambda *cards: bool(asked.append(cards))) is pair
    assert asked == [(4, 5)]


def over(pair, connect):
    return over_peer_memory(pair, None, [0, 1], reaches=lambda *_: True, connect=connect)


def test_small_sums_go_through_the_shared_buffer_and_large_ones_over_nccl():
    buffer = torch.zeros(MOST_BYTES, dtype=torch.uint8)
    ranks = over(Pair(), lambda *_: with_twice_as_much(buffer))
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.arange(32).view(4, 8).to(dtype)
        assert ranks.sum_(x) is x
        assert torch.equal(x, 3 * torch.arange(32).view(4, 8).to(dtype))
    assert ranks.sum_(torch.zeros(MOST_BYTES)) == f"{MOST_BYTES} elements over NCCL"


def test_a_kernel_that_adds_wrongly_is_left_for_nccl(caplog):
    pair = Pair()
    assert over(pair, lambda *_: (torch.zeros(MOST_BYTES, dtype=torch.uint8), lambda _, x: x)) is pair
    assert "sums between 2 GPUs go over NCCL: the one-shot kernel does not work" in caplog.text


def test_a_setup_that_fails_is_left_for_nccl_with_its_reason(caplog):
    def fails(*_):
        raise RuntimeError("no fabric here")

    pair = Pair()
    assert over(pair, fails) is pair
    assert "one-shot sums cannot be set up: no fabric here" in caplog.text
