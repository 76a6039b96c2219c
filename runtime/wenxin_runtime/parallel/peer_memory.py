"""Small sums between the GPUs of one node in one kernel that reads the peers' memory, where NCCL takes several steps.

torch's symmetric memory has the kernel: every rank copies its part into a buffer that all have mapped, waits for the
others on the device, and adds all buffers in the order of the ranks. Nothing of it asks the host, so a CUDA graph can
hold it. It has not been run here, so it is asked for (--enable-one-shot-all-reduce), and tried before it is used.
"""

import logging
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from wenxin_runtime.parallel.ranks import Ranks

logger = logging.getLogger(__name__)

MOST_BYTES = 256 << 10
"""Above, each rank reading everything of all others costs more than NCCL's steps."""
_DTYPES = (torch.float32, torch.bfloat16)
_ALIGNED = 16  # bytes that a thread of the kernel takes at once
Add = Callable[[Tensor, Tensor], object]
"""Takes the beginning of the shared buffer, shaped like x, and x, which it replaces by the sum over the ranks."""
Reaches = Callable[[int, int], bool]
"""Whether one GPU of this machine can access another one's memory."""
Connect = Callable[[dist.ProcessGroup, torch.device], tuple[Tensor, Add]]
"""Maps a buffer of MOST_BYTES, uint8, of every rank into every rank, all at the same time."""


class PeerMemoryRanks:
    """A group of GPUs whose small sums are one kernel; everything else goes the way it went. Implements `Ranks`."""

    def __init__(self, others: Ranks, buffer: Tensor, add: Add) -> None:
        self.rank, self.size = others.rank, others.size
        self._others, self._buffer, self._add = others, buffer, add
        self.join, self.spread_ = others.join, others.spread_
        self.least, self.exchange = others.least, others.exchange

    def sum_(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_`."""
        if not takes(x):
            return self._others.sum_(x)
        self._add(self._buffer.view(x.dtype)[: x.numel()].view(x.shape), x)
        return x

    def works(self) -> bool:
        """Try a sum of whole numbers, which has one answer."""
        x = torch.arange(64, dtype=torch.float32, device=self._buffer.device)
        return bool((self.sum_(x * (self.rank + 1)) == x * (self.size * (self.size + 1) // 2)).all())


def takes(x: Tensor) -> bool:
    """Say whether the kernel can add up tensors like x, and soon enough."""
    aligned = x.nbytes % _ALIGNED == 0 and x.storage_offset() * x.itemsize % _ALIGNED == 0
    return bool(x.dtype in _DTYPES and 0 < x.nbytes <= MOST_BYTES and aligned and x.is_contiguous())


def connect(group: dist.ProcessGroup, device: torch.device) -> tuple[Tensor, Add]:
    """See `Connect`."""
    from torch.distributed import _symmetric_memory  # noqa: PLC0415 - it brings Triton, which a CPU does without

    buffer = _symmetric_memory.empty(MOST_BYTES, dtype=torch.uint8, device=device)
    _symmetric_memory.rendezvous(buffer, group)
    add, name = torch.ops.symm_mem.one_shot_all_reduce_copy_out, group.group_name
    return buffer, lambda part, x: add(part, x, "sum", name, x)


def over_peer_memory(
    ranks: Ranks,
    group: dist.ProcessGroup,
    cards: Sequence[int],
    reaches: Reaches = torch.cuda.can_device_access_peer,
    connect: Connect = connect,
) -> Ranks:
    """Give a group of GPUs one-shot sums; the group itself where they cannot reach each other's memory, or add wrongly.

    Every rank of the group calls it at the same time; `cards` are the ranks' GPUs in their order, none where they are
    on several machines.
    """
    if not ranks.least(int(_can(ranks.rank, cards, reaches))):
        logger.info("sums between %d GPUs go over NCCL: they cannot all access each other's memory", ranks.size)
        return ranks
    found = None
    try:
        found = PeerMemoryRanks(ranks, *connect(group, torch.device("cuda", cards[ranks.rank])))
    except RuntimeError as error:
        logger.warning("one-shot sums cannot be set up: %s", error)
    # A kernel that waits for a rank without a buffer would wait for ever.
    if ranks.least(int(found is not None)) and found and ranks.least(int(found.works())):
        return found
    logger.warning("sums between %d GPUs go over NCCL: the one-shot kernel does not work on all of them", ranks.size)
    return ranks


def _can(rank: int, cards: Sequence[int], reaches: Reaches) -> bool:
    """Say whether this rank has the kernel and can access the memory of every other one."""
    if not cards or not hasattr(torch.ops.symm_mem, "one_shot_all_reduce_copy_out"):
        return False
    return all(reaches(cards[rank], card) for card in cards if card != cards[rank])
