"""What the kernels' tile sizes are chosen by: a few facts of the card, read once."""

import functools
from dataclasses import dataclass

import torch
import triton

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on a CPU's tensors: TRITON_INTERPRET=1 when they were imported."""


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator.

    Attributes:
        multiprocessors: Compute units that run programs side by side.
        shared_bytes: Fast memory that one program may take.
    """

    multiprocessors: int
    shared_bytes: int

    @property
    def roomy(self) -> bool:
        """Whether a program may hold three stages of large tiles: A100 and later data centre cards of NVIDIA."""
        return self.shared_bytes >= 160 * 1024


# The interpreter has neither; small, so that splits and small tiles are exercised.
_NO_CARD = Card(multiprocessors=4, shared_bytes=64 * 1024)


def card(device: torch.device) -> Card:
    """Describe the card of `device`."""
    if device.type == "cpu":
        return _NO_CARD
    return _read(device)


@functools.cache
def _read(device: torch.device) -> Card:
    found = torch.cuda.get_device_properties(device)
    # The size that a kernel may opt in to; ROCm names none, and the plain size is what there is.
    shared: int = getattr(found, "shared_memory_per_block_optin", found.shared_memory_per_block)
    return Card(found.multi_processor_count, shared)
