"""Weights in the layout that the kernels read: 64 outputs side by side, one input after the other.

Whatever the number of rows, this one copy serves. csrc/kernels.h says what each kind looks like in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

_PANEL = 64
GROUP = 64
"""Inputs that share one int8 scale."""


class Kind(IntEnum):
    """How a weight is stored; the values are csrc/kernels.h's."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2


@dataclass(frozen=True, slots=True)
class Packed:
    """One matrix.

    Attributes:
        kind: What `panels` holds.
        out: Outputs.
        inputs: Inputs.
        panels: [panels, words, 64] of 4 bytes each, as bytes: one, two or four inputs in a word.
        scales: float32 [panels, groups, 64] of an int8 weight.
    """

    kind: Kind
    out: int
    inputs: int
    panels: Tensor
    scales: Tensor | None


def kind_for(weights: Sequence[Tensor], *, int8: bool) -> Kind:
    """Choose how to store matrices that belong together.

    Float32 values that are all bfloat16 (as a released checkpoint's are) are stored as bfloat16: they are read in half
    the time, and the kernels widen them to the very same float32.
    """
    if int8:
        return Kind.INT8
    return Kind.BFLOAT16 if all(holds_bfloat16(weight) for weight in weights) else Kind.FLOAT32


def pack(weight: Tensor, kind: Kind, prepare: Callable[[Tensor], None] = lambda _: None) -> Packed:
    """Lay out weight [out, in], float32 or bfloat16; `prepare` gets the memory for the panels before it is written."""
    out, inputs = weight.shape
    if kind == Kind.INT8:
        steps, scales = _quantised(weight)
        return Packed(kind, out, inputs, _panels(steps, 4, prepare), _panels(scales, 1, prepare).view(torch.float32))
    if kind == Kind.BFLOAT16:
        return Packed(kind, out, inputs, _panels(_padded(weight.bfloat16(), 2), 2, prepare), None)
    return Packed(kind, out, inputs, _panels(_padded(weight.float(), 1), 1, prepare), None)


def holds_bfloat16(weight: Tensor) -> bool:
    """Tell whether every value of a tensor is a bfloat16 one."""
    return weight.dtype == torch.bfloat16 or not bool((weight.contiguous().view(torch.int32) & 0xFFFF).any())


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each output's groups of inputs to 255 steps between their greatest magnitudes; give steps and scales."""
    groups = _padded(weight.float(), GROUP)
    groups = groups.view(groups.shape[0], -1, GROUP)
    scales = groups.abs().amax(dim=-1) / 127
    # A group of zeros has scale 0.
    steps = (groups / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round_().to(torch.int8)
    return steps.flatten(1), scales


def _padded(weight: Tensor, unit: int) -> Tensor:
    out, inputs = weight.shape
    return F.pad(weight, (0, -inputs % unit, 0, -out % _PANEL)) if inputs % unit or out % _PANEL else weight


def _panels(weight: Tensor, per_word: int, prepare: Callable[[Tensor], None]) -> Tensor:
    """Bring [out, in] into [panels, words, 64] with `per_word` inputs in each word."""
    words = weight.contiguous().view(weight.shape[0] // _PANEL, _PANEL, -1, per_word).transpose(1, 2)
    panels = torch.empty(words.shape, dtype=weight.dtype)
    prepare(panels)
    return panels.copy_(words).view(torch.int32)
