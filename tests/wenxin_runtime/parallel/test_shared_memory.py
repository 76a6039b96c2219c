"""Collectives through shared memory, between real processes."""

import functools
import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.wenxin_runtime.parallel import rank_processes
from wenxin_runtime.kernels.cpu import library
from wenxin_runtime.parallel import shared_memory
from wenxin_runtime.parallel.ranks import Ranks
from wenxin_runtime.parallel.shared_memory import SLOT_BYTES, GroupBroken, SharedMemoryRanks, over_shared_memory

pytestmark = pytest.mark.skipif(library.load() is None, reason="no C compiler")

DTYPES = (torch.float32, torch.bfloat16, torch.int64)
SLOT_FLOATS = SLOT_BYTES // 4
# Around the sizes where something changes: vectors, blocks, one shot or two, slots.
COUNTS = (1, 7, 1023, 1025, 8192, 8193, 100_003, SLOT_FLOATS, SLOT_FLOATS + 1, 2 * SLOT_FLOATS + 77)
LONG_SECONDS = 600
ENDED = "another rank has given the group up"


def shared(group: Ranks, timeout_seconds: float = LONG_SECONDS) -> SharedMemoryRanks:
    ranks = over_shared_memory(group, timeout_seconds)
    assert isinstance(ranks, SharedMemoryRanks)
    return ranks


def drawn(seed: int, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    dice = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return (torch.randn(shape, generator=dice) * 10 ** (seed % 5)).to(dtype)
    return torch.randint(-(2**62), 2**62, shape, generator=dice)


def total(parts: list[torch.Tensor]) -> torch.Tensor:
    """The documented order: rank 0 first, bfloat16 in float32, rounded once."""
    wide = [part.float() if part.dtype == torch.bfloat16 else part for part in parts]
    return functools.reduce(torch.add, wide).to(parts[0].dtype)


def bits(x: torch.Tensor) -> bytes:
    return x.contiguous().view(torch.uint8).numpy().tobytes()


def sums(group: Ranks, threads: int, instruction_set: str) -> list[str]:
    ranks = shared(group)
    library.load().wx_threads(threads)
    assert library.choose_instruction_set(library.load(), instruction_set)
    wrong = []
    for dtype, count in itertools.product(DTYPES, COUNTS):
        parts = [drawn(7 * rank + count, dtype, count) for rank in range(ranks.size)]
        found = ranks.sum_(parts[ranks.rank].clone())
        if bits(found) != bits(total(parts)):
            wrong.append(f"{dtype} {count}")
    return wrong


@pytest.mark.parametrize(("size", "threads", "instruction_set"), [(2, 1, ""), (3, 1, "baseline"), (4, 3, "")])
def test_a_sum_is_that_of_the_ranks_in_their_order_to_the_last_bit(tmp_path, size, threads, instruction_set):
    assert rank_processes.run(size, tmp_path, sums, threads, instruction_set) == [[]] * size


def not_a_number_and_infinities(group: Ranks) -> list[float]:
    ranks = shared(group)
    mine = [[1.0, float("inf"), float("inf"), float("nan")], [-1.0, 1.0, float("-inf"), 1.0]][ranks.rank]
    return [ranks.sum_(torch.tensor(mine, dtype=dtype)).tolist() for dtype in (torch.float32, torch.bfloat16)]


def test_nan_and_infinity_come_through(tmp_path):
    for found in itertools.chain(*rank_processes.run(2, tmp_path, not_a_number_and_infinities)):
        assert str(found) == "[0.0, inf, nan, nan]"


def many(group: Ranks, rounds: int) -> list[str]:
    """Mixed collectives back to back, drawn alike on all ranks, each rank pausing by its own dice."""
    ranks = shared(group)
    alike, own = random.Random(45), random.Random(ranks.rank)
    wrong = []
    for number in range(rounds):
        if own.random() < 0.02:
            time.sleep(own.random() * 0.004)  # long enough for the others to fall asleep
        name, check = alike.choice(list(CHECKS.items()))
        if not check(ranks, alike, number):
            wrong.append(f"{number}: {name}")
    return wrong


def sum_is_right(ranks: Ranks, alike: random.Random, number: int) -> bool:
    dtype, count = alike.choice(DTYPES), alike.choice((1, 64, 1024, 40_000))
    parts = [drawn(number + rank, dtype, count) for rank in range(ranks.size)]
    return bits(ranks.sum_(parts[ranks.rank].clone())) == bits(total(parts))


def join_is_right(ranks: Ranks, alike: random.Random, number: int) -> bool:
    dtype, rows, width = alike.choice(DTYPES), alike.randrange(5), alike.choice((1, 33, 5000))
    parts = [drawn(number + rank, dtype, rows, width) for rank in range(ranks.size)]
    return bits(ranks.join(parts[ranks.rank])) == bits(torch.cat(parts, dim=1))


def spread_is_right(ranks: Ranks, alike: random.Random, number: int) -> bool:
    dtype, count = alike.choice(DTYPES), alike.choice((0, 1, 77, 40_000))
    x = drawn(number, dtype, count)
    return bits(ranks.spread_(x.clone() if ranks.rank == 0 else torch.zeros_like(x))) == bits(x)


def exchange_is_right(ranks: Ranks, alike: random.Random, number: int) -> bool:
    size, width = ranks.size, alike.choice((1, 96))
    counts = [[alike.choice((0, 1, 5, 40)) for _ in range(size)] for _ in range(size)]  # of rows from each to each
    rows = [drawn(number + rank, torch.float32, sum(counts[rank]), width) for rank in range(size)]
    receives = [counts[rank][ranks.rank] for rank in range(size)]
    wanted = torch.cat([rows[rank].split(counts[rank])[ranks.rank] for rank in range(size)])
    return bits(ranks.exchange(rows[ranks.rank], counts[ranks.rank], receives)) == bits(wanted)


CHECKS = {"sum": sum_is_right, "join": join_is_right, "spread": spread_is_right, "exchange": exchange_is_right}


@pytest.mark.parametrize(("size", "rounds"), [(2, 3000), (4, 1500)])  # four are more than the cores of a small machine
def test_thousands_of_mixed_collectives_back_to_back_are_right(tmp_path, size, rounds):
    assert rank_processes.run(size, tmp_path, many, rounds) == [[]] * size


def larger_than_a_slot(group: Ranks) -> list[bool]:
    ranks = shared(group)
    size, me = ranks.size, ranks.rank
    rows = [drawn(rank, torch.float32, 9, SLOT_FLOATS // 2 - 5) for rank in range(size)]
    counts = [[9, 0, 0], [2, 3, 4], [0, 1, 8]]
    exchanged = ranks.exchange(rows[me], counts[me], [counts[rank][me] for rank in range(size)])
    wanted = torch.cat([rows[rank].split(counts[rank])[me] for rank in range(size)])
    return [
        bits(ranks.join(rows[me])) == bits(torch.cat(rows, dim=1)),
        bits(ranks.spread_(rows[me].clone())) == bits(rows[0]),
        bits(exchanged) == bits(wanted),
    ]


def test_what_is_larger_than_a_slot_goes_in_pieces(tmp_path):
    assert rank_processes.run(3, tmp_path, larger_than_a_slot) == [[True] * 3] * 3


def other_ways(group: Ranks) -> tuple[float, int, list[int]]:
    ranks = shared(group)
    half = ranks.sum_(torch.ones(3, dtype=torch.float16))
    transposed = ranks.sum_(torch.arange(6).view(2, 3).t())
    return half.sum().item(), ranks.least(5 - ranks.rank), transposed.flatten().tolist()


def test_other_dtypes_least_and_tensors_with_gaps_are_served_too(tmp_path):
    assert rank_processes.run(2, tmp_path, other_ways) == [(6.0, 4, [0, 6, 2, 8, 4, 10])] * 2


def until_broken(ranks: Ranks) -> str:
    try:
        for _ in range(1_000_000):
            ranks.sum_(torch.ones(1024))
    except GroupBroken as broken:
        return str(broken)
    return "nothing happened"


def losing_one(group: Ranks) -> list[str]:
    ranks = shared(group)
    if ranks.rank == 1:
        for _ in range(500):
            ranks.sum_(torch.ones(1024))
        os.kill(os.getpid(), signal.SIGKILL)
    return [until_broken(ranks), until_broken(ranks)]


def test_a_rank_that_dies_ends_the_others_waits_with_an_error(tmp_path):
    zero, one, two = rank_processes.run(3, tmp_path, losing_one)
    assert one is None
    assert "rank 1 of the group has ended" in {zero[0], two[0]}  # whoever notices first tells the other
    assert {zero[0], two[0]} <= {"rank 1 of the group has ended", ENDED}
    assert {zero[1], two[1]} == {ENDED}


def not_coming(group: Ranks) -> str:
    ranks = shared(group, timeout_seconds=0.2)
    found = until_broken(ranks) if ranks.rank == 0 else ""
    ranks.least(0)  # rank 1 lives until rank 0 has given it up
    return found or until_broken(ranks)


def test_a_rank_that_does_not_come_is_given_up_in_time_and_told_so(tmp_path):
    zero, one = rank_processes.run(2, tmp_path, not_coming)
    assert zero == "a rank has not come to a sum within 0.2 s"
    assert one == ENDED


def cpu_seconds_of_waiting(group: Ranks) -> float:
    ranks = shared(group)
    if ranks.rank == 1:
        time.sleep(0.5)
    before = time.thread_time()
    ranks.sum_(torch.ones(1024))
    return time.thread_time() - before


def test_a_rank_that_waits_long_sleeps(tmp_path):
    assert max(rank_processes.run(2, tmp_path, cpu_seconds_of_waiting)) < 0.1


def files_and_type(group: Ranks, lacking: str, rank: int) -> tuple[bool, set[str]]:
    if group.rank == rank and lacking == "library":
        library.load = lambda: None
    if group.rank == rank and lacking == "memory":
        os.memfd_create = no_memory
    if group.rank == rank and lacking == "the segment":
        shared_memory._name = lambda number: f"another-{number}"
    ranks = over_shared_memory(group, LONG_SECONDS)
    ranks.sum_(torch.ones(1))
    links = {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    return isinstance(ranks, SharedMemoryRanks), {link for link in links if link.startswith("/memfd:")}


def no_memory(_: str) -> int:
    raise OSError(12, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("lacking", "rank"), [("library", 0), ("library", 1), ("memory", 0), ("the segment", 1)], ids=str
)
def test_all_ranks_keep_their_group_where_one_cannot_share_memory(tmp_path, lacking, rank):
    assert rank_processes.run(2, tmp_path, files_and_type, lacking, rank) == [(False, set())] * 2
