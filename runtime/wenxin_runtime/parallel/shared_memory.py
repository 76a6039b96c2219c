"""Sums between CPU ranks of one node, through memory that they share: microseconds, where a socket takes a millisecond.

Ranks meet over the group that they have already (gloo): rank 0 makes an anonymous file and says where it stands under
/proc, the others map it. Whether they can is also the question whether they are on one node; where one of them cannot,
all keep the group. kernels/cpu/csrc/ranks.c is the rest; docs/adr/0014-sums-between-ranks.md says why.
"""

import ctypes
import fcntl
import logging
import math
import mmap
import os
import secrets
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wenxin_runtime.kernels.cpu import build, library
from wenxin_runtime.kernels.cpu.library import Member
from wenxin_runtime.parallel.ranks import Ranks

logger = logging.getLogger(__name__)

SLOT_BYTES = 1 << 20
"""What a rank puts there at a time. The segment holds two of them for each rank; pages are taken when written."""
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int64: 2}  # csrc/kernels.h
_NOWHERE = (0, 0, 0)
_OVER, _LATE = -1, -2  # csrc/ranks.h


class GroupBroken(RuntimeError):
    """A collective cannot be completed: a rank's process has ended, or does not answer. All later ones fail too."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory that a group's processes share, zero at first.

    Attributes:
        file: The anonymous file's descriptor. The process's lock on it lasts until any descriptor of it is closed here.
        memory: All of it, mapped.
    """

    file: int
    memory: mmap.mmap

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


class SharedMemoryRanks:
    """A group of CPU ranks on one node; implements `Ranks`.

    A sum adds the ranks' parts in the order of the ranks, bfloat16 in float32, and is the same on all of them to the
    last bit. Every rank makes the same calls in the same order, from one thread at a time.

    Raises:
        GroupBroken: from any collective, when it can no longer be completed.
    """

    def __init__(self, others: Ranks, kernels: ctypes.CDLL, segment: Segment, timeout_seconds: float) -> None:
        """Take part.

        Args:
            others: The same group another way, for what is seldom or of other dtypes.
            kernels: The compiled library.
            segment: The group's.
            timeout_seconds: How long a collective waits for a rank that lives and does not come.
        """
        self.rank, self.size = others.rank, others.size
        self._others = others
        self._kernels = kernels
        self._segment = segment  # mapped as long as this lives
        weakref.finalize(self, os.close, segment.file)
        self._member = Member(
            shared=segment.address, slot_bytes=SLOT_BYTES, timeout_ns=round(timeout_seconds * 1e9),
            rank=self.rank, size=self.size, file=segment.file,
        )  # fmt: skip
        self._counts = ctypes.c_int64 * self.size

    def sum_(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_`."""
        if x.dtype not in _DTYPES:
            return self._others.sum_(x)
        x = x.contiguous()
        self._check(self._kernels.wx_sum(self._member, _DTYPES[x.dtype], x.data_ptr(), x.numel()))
        return x

    def join(self, x: Tensor) -> Tensor:
        """See `Ranks.join`."""
        x = x.contiguous()
        rows, part = x.shape
        whole = x.new_empty(rows, self.size * part)
        row_bytes = part * x.itemsize
        self._check(self._kernels.wx_join(self._member, x.data_ptr(), whole.data_ptr(), rows, row_bytes))
        return whole

    def spread_(self, x: Tensor) -> Tensor:
        """See `Ranks.spread_`."""
        x = x.contiguous()
        self._check(self._kernels.wx_spread(self._member, x.data_ptr(), x.nbytes))
        return x

    def least(self, number: int) -> int:
        """See `Ranks.least`."""
        return self._others.least(number)

    def exchange(self, x: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        """See `Ranks.exchange`."""
        x = x.contiguous()
        received = x.new_empty(sum(receives), *x.shape[1:])
        self._check(
            self._kernels.wx_exchange(
                self._member, x.data_ptr(), self._counts(*sends), received.data_ptr(), self._counts(*receives),
                math.prod(x.shape[1:]) * x.itemsize,
            )
        )  # fmt: skip
        return received

    def _check(self, outcome: int) -> None:
        if outcome == 0:
            return
        if outcome == _OVER:
            raise GroupBroken("another rank has given the group up")
        if outcome == _LATE:
            raise GroupBroken(f"a rank has not come to a sum within {self._member.timeout_ns / 1e9:g} s")
        raise GroupBroken(f"rank {outcome - 1} of the group has ended")


def over_shared_memory(ranks: Ranks, timeout_seconds: float) -> Ranks:
    """Give a group of CPU ranks faster collectives; the group itself where its ranks cannot share memory.

    Every rank of the group calls it at the same time.

    Args:
        ranks: The group.
        timeout_seconds: See `SharedMemoryRanks`.
    """
    kernels = library.load()
    segment, where = _make(kernels, ranks.size) if ranks.rank == 0 and kernels else (None, _NOWHERE)
    where = tuple(ranks.spread_(torch.tensor(where)).tolist())
    if ranks.rank > 0 and kernels:
        segment = _find(ranks.rank, *where)
    all_have_it = bool(ranks.least(int(segment is not None)))
    if segment and kernels and all_have_it:
        return SharedMemoryRanks(ranks, kernels, segment, timeout_seconds)
    if segment:
        segment.memory.close()
        os.close(segment.file)
    if ranks.rank == 0:
        logger.info("%d ranks share no memory: they are on several nodes, or lack compiled kernels", ranks.size)
    return ranks


def _make(kernels: ctypes.CDLL, ranks: int) -> tuple[Segment | None, tuple[int, int, int]]:
    """Make a segment. Returns also where it stands: process, descriptor, and the number in its name."""
    number = secrets.randbits(63)
    try:
        file = os.memfd_create(_name(number))
        os.ftruncate(file, kernels.wx_segment_bytes(ranks, SLOT_BYTES))
        return _taken(file, 0), (os.getpid(), file, number)
    except (AttributeError, OSError, ValueError) as error:  # no Linux, no memory, more ranks than it knows
        logger.warning("the ranks share no memory: %s", error)
        return None, _NOWHERE


def _find(rank: int, process: int, descriptor: int, number: int) -> Segment | None:
    """Map rank 0's segment, if this is a process of the same node, and the file its file."""
    path = Path(f"/proc/{process}/fd/{descriptor}")
    try:
        if str(path.readlink()) != f"/memfd:{_name(number)} (deleted)":
            return None
        return _taken(os.open(path, os.O_RDWR | os.O_CLOEXEC), rank)
    except OSError:
        return None


def _taken(file: int, rank: int) -> Segment:
    """Map a segment's file, and lock the rank's byte of it: csrc/ranks.c takes a rank without its lock for dead."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
        return Segment(file, mmap.mmap(file, 0))
    except (OSError, ValueError):
        os.close(file)
        raise


def _name(number: int) -> str:
    """Name a segment so that it cannot be taken for another, nor for one that another version laid out."""
    return f"{build.library_name()}-{number}"
