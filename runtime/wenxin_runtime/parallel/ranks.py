"""The ranks that compute one model, and the collectives that make their parts a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """Some ranks as one of them sees them. Every method is a collective: all have to call it, in the same order."""

    @property
    def rank(self) -> int:
        """This member's number, from 0."""

    @property
    def size(self) -> int:
        """How many members there are."""

    def sum_(self, x: Tensor) -> Tensor:
        """Replace x by the sum over the ranks, the same on all of them, and return it."""

    def join(self, x: Tensor) -> Tensor:
        """Put the ranks' x [rows, part] side by side: [rows, whole], the same on all of them."""

    def spread_(self, x: Tensor) -> Tensor:
        """Replace x by what rank 0 has, and return it."""

    def least(self, number: int) -> int:
        """Return the least of the ranks' numbers, below 2^63."""

    def exchange(self, x: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        """Send rows of x [rows, width] to each rank and return those that come, both in the order of the ranks.

        Args:
            x: The rows for rank 0 first.
            sends: How many of them each rank gets.
            receives: How many each rank sends here.
        """


class Alone:
    """The group of one: nothing to add."""

    rank = 0
    size = 1

    def sum_(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_`."""
        return x

    def join(self, x: Tensor) -> Tensor:
        """See `Ranks.join`."""
        return x

    def spread_(self, x: Tensor) -> Tensor:
        """See `Ranks.spread_`."""
        return x

    def least(self, number: int) -> int:
        """See `Ranks.least`."""
        return number

    def exchange(self, x: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:  # noqa: ARG002 - its own
        """See `Ranks.exchange`."""
        return x


class Group:
    """A group of processes over torch.distributed: NCCL between GPUs, gloo between CPUs."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._device = device
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def sum_(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_`."""
        x = x.contiguous()
        dist.all_reduce(x, group=self._group)
        return x

    def join(self, x: Tensor) -> Tensor:
        """See `Ranks.join`."""
        parts = x.new_empty(self.size * x.shape[0], x.shape[1])
        dist.all_gather_into_tensor(parts, x.contiguous(), group=self._group)
        return torch.cat(parts.chunk(self.size), dim=1)

    def spread_(self, x: Tensor) -> Tensor:
        """See `Ranks.spread_`."""
        x = x.contiguous()
        dist.broadcast(x, group=self._group, group_src=0)
        return x

    def least(self, number: int) -> int:
        """See `Ranks.least`."""
        found = torch.tensor(number, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MIN, group=self._group)
        return int(found)

    def exchange(self, x: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        """See `Ranks.exchange`."""
        found = x.new_empty(sum(receives), *x.shape[1:])
        dist.all_to_all_single(found, x.contiguous(), list(receives), list(sends), group=self._group)
        return found


@dataclass(frozen=True, slots=True)
class Mesh:
    """Where a rank stands among all of them.

    The world is cut into data-parallel groups: the ranks of one share every layer of the same sequences, and number
    themselves within it; world rank = group * tensor.size + tensor.rank.

    Attributes:
        world: All ranks.
        tensor: Those of this rank's group.
        group: This rank's group.
        groups: How many there are.
    """

    world: Ranks
    tensor: Ranks
    group: int = 0
    groups: int = 1


ALONE = Mesh(Alone(), Alone())
"""One process with a whole model."""
