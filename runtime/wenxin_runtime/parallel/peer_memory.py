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
Reaches = Callable[[int, int], bool]
"""Whether one GPU of this machine can access another one's memory."""


class PeerMemoryRanks:
    """A group of GPUs whose small sums are one kernel; everything else goes the way it went. Implements `Ranks`."""

    def __init__(self, others: Ranks, group: dist.ProcessGroup, device: torch.device) -> None:
        """Map a buffer of every rank into every rank; all of them do so at the same time."""
        from torch.distributed import _symmetric_memory  # noqa: PLC0415 - it brings Triton, which a CPU does without

        self.rank, self.size = others.rank, others.size
        self._others = others
        self._group = group.group_name
        self._buffer = _symmetric_memory.empty(MOST_BYTES, dtype=torch.uint8, device=device)
        _symmetric_memory.rendezvous(self._buffer, group)
        self.join, self.spread_ = others.join, others.spread_
        self.least, self.exchange = others.least, others.exchange

    def sum_(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_`."""
        if not takes(x):
            return self._others.sum_(x)
        part = self._buffer.view(x.dtype)[: x.numel()].view(x.shape)
        summed: Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy_out(part, x, "sum", self._group, x)
        return summed

    def works(self) -> bool:
        """Try a sum of whole numbers, which has one answer."""
        x = torch.arange(64, dtype=torch.float32, device=self._buffer.device)
        return bool((self.sum_(x * (self.rank + 1)) == x * (self.size * (self.size + 1) // 2)).all())


def takes(x: Tensor) -> bool:
    """Say whether the kernel can add up tensors like x, and soon enough."""
    aligned = x.nbytes % _ALIGNED == 0 and x.storage_offset() * x.itemsize % _ALIGNED == 0
    return bool(x.dtype in _DTYPES and 0 < x.nbytes <= MOST_BYTES and aligned and x.is_contiguous())


def over_peer_memory(
    ranks: Ranks,
    group: dist.ProcessGroup,
    cards: Sequence[int],
    reaches: Reaches = torch.cuda.can_device_access_peer,
) -> Ranks:
    """Give a group of GPUs one-shot sums; the group itself where they cannot reach each other's memory, or add wrongly.

    Every rank of the group calls it at the same time.

    Args:
        ranks: The group.
        group: The same.
        cards: The ranks' GPUs in their order, all of one machine; none where they are on several.
        reaches: Asks the driver.
    """
    if not ranks.least(int(_can(ranks.rank, cards, reaches))):
        logger.info("sums between %d GPUs go over NCCL: they cannot all access each other's memory", ranks.size)
        return ranks
    found = _tried(ranks, group, torch.device("cuda", cards[ranks.rank]))
    return found if ranks.least(int(found is not None)) and found else ranks


def _tried(ranks: Ranks, group: dist.ProcessGroup, device: torch.device) -> PeerMemoryRanks | None:
    try:
        found = PeerMemoryRanks(ranks, group, device)
        if found.works():
            return found
        logger.warning("sums between %d GPUs go over NCCL: the one-shot kernel adds wrongly here", ranks.size)
    except RuntimeError as error:
        logger.warning("sums between %d GPUs go over NCCL: %s", ranks.size, error)
    return None


def _can(rank: int, cards: Sequence[int], reaches: Reaches) -> bool:
    """Say whether this rank has the kernel and can access the memory of every other one."""
    if not cards or not hasattr(torch.ops.symm_mem, "one_shot_all_reduce_copy_out"):
        return False
    return all(reaches(cards[rank], card) for card in cards if card != cards[rank])
