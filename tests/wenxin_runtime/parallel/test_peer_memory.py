"""Which sums go over peer memory. The kernel itself needs two GPUs."""

import pytest
import torch

from wenxin_runtime.parallel.peer_memory import MOST_BYTES, over_peer_memory, takes


class Pair:
    """Rank 0 of two whose other rank could."""

    rank, size = 0, 2

    def least(self, number: int) -> int:
        return number


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


def test_a_setup_that_fails_leaves_the_ranks_with_nccl_and_says_why(caplog):
    pair = Pair()  # there is no GPU to make a buffer on, or no process group to map it in
    with caplog.at_level("WARNING"):
        assert over_peer_memory(pair, torch.distributed.ProcessGroup(0, 2), [0, 1], reaches=lambda *_: True) is pair
    assert "sums between 2 GPUs go over NCCL: " in caplog.text
