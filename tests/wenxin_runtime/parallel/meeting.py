"""Ranks as threads of one process: a group that meets at a barrier and reads what the others have laid down."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from wenxin_runtime.parallel.ranks import Mesh

SECONDS = 60
T = TypeVar("T")


class Table:
    """Where a group's ranks meet."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=SECONDS)
        self.laid: list[object] = [None] * size


class ThreadRanks:
    """Implements `wenxin_runtime.parallel.ranks.Ranks`."""

    def __init__(self, rank: int, size: int, table: Table) -> None:
        self.rank = rank
        self.size = size
        self.bytes_received = 0
        self._table = table

    def sum_(self, x: Tensor) -> Tensor:
        parts = self._swap(x.clone())
        x.zero_()
        for part in parts:
            x += part
        return x

    def join(self, x: Tensor) -> Tensor:
        return torch.cat(self._swap(x.clone()), 1)

    def spread_(self, x: Tensor) -> Tensor:
        return x.copy_(self._swap(x.clone())[0])

    def least(self, number: int) -> int:
        return min(self._swap(number))

    def exchange(self, x: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        assert len(x) == sum(sends)
        parts = [sent[self.rank] for sent in self._swap(x.clone().split(list(sends)))]
        assert [len(part) for part in parts] == list(receives)
        self.bytes_received += sum(part.nbytes for i, part in enumerate(parts) if i != self.rank)
        return torch.cat(parts)

    def _swap(self, mine: T) -> list[T]:
        table = self._table
        table.laid[self.rank] = mine
        table.barrier.wait()
        found: list[T] = list(table.laid)  # type: ignore[arg-type]
        table.barrier.wait()
        return found


def on_ranks(groups: int, tensor: int, work: Callable[[Mesh], T]) -> list[T]:
    """Do `work` on every rank of a world at the same time; the results in the order of the ranks."""
    world, within = Table(groups * tensor), [Table(tensor) for _ in range(groups)]

    def one(rank: int) -> T:
        group = rank // tensor
        mine = ThreadRanks(rank % tensor, tensor, within[group])
        with torch.inference_mode():
            try:
                return work(Mesh(ThreadRanks(rank, groups * tensor, world), mine, group, groups))
            except BaseException:
                for table in (world, *within):
                    table.barrier.abort()  # or the others would wait
                raise

    with ThreadPoolExecutor(groups * tensor) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(groups * tensor)]]
