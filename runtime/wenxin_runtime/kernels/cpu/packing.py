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
_PANELS_AT_ONCE = 64
GROUP = 64
"""Inputs that share one int8 scale."""


class Kind(IntEnum):
    """How a weight is stored; the values are csrc/kernels.h's."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2


# Dtype in memory, inputs in a word of 4 bytes, and what the number of inputs is padded to a multiple of.
_LAYOUTS = {
    Kind.FLOAT32: (torch.float32, 1, 1),
    Kind.BFLOAT16: (torch.bfloat16, 2, 2),
    Kind.INT8: (torch.int8, 4, GROUP),
}


@dataclass(frozen=True, slots=True)
class Packed:
    """One matrix.

    Attributes:
        kind: What `panels` holds.
        out: Outputs.
        inputs: Inputs.
        panels: [panels, words, 64, inputs of a word]; a word has 4 bytes.
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
    """Lay out weight [out, in], float32 or bfloat16; `prepare` gets the memory for the panels before it is written.

    It is done in parts: next to the largest matrix of a model there may be no room for a few more copies of it.
    """
    out, inputs = weight.shape
    dtype, per_word, unit = _LAYOUTS[kind]
    count, padded = -(-out // _PANEL), -(-inputs // unit) * unit
    panels = torch.empty((count, padded // per_word, _PANEL, per_word), dtype=dtype)
    prepare(panels)
    scales = torch.empty((count, padded // GROUP, _PANEL)) if kind == Kind.INT8 else None
    for first in range(0, count, _PANELS_AT_ONCE):
        last = min(first + _PANELS_AT_ONCE, count)
        part = weight[first * _PANEL : last * _PANEL]
        part = F.pad(part, (0, padded - inputs, 0, (last - first) * _PANEL - part.shape[0]))
        if scales is not None:
            part, steps = _quantised(part.float())
            scales[first:last] = _side_by_side(steps, 1)[..., 0]
        panels[first:last] = _side_by_side(part, per_word)
    return Packed(kind, out, inputs, panels, scales)


def holds_bfloat16(weight: Tensor) -> bool:
    """Tell whether every value of a tensor is a bfloat16 one."""
    if weight.dtype == torch.bfloat16:
        return True
    parts = torch.split(weight.contiguous().view(torch.int32), _PANEL * _PANELS_AT_ONCE)
    return not any(bool((part & 0xFFFF).any()) for part in parts)


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each output's groups of inputs to 255 steps between their greatest magnitudes; give numbers and scales."""
    groups = weight.view(weight.shape[0], -1, GROUP)
    scales = groups.abs().amax(dim=-1) / 127
    # A group of zeros has scale 0.
    numbers = (groups / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round_()
    return numbers.to(torch.int8).flatten(1), scales


def _side_by_side(weight: Tensor, per_word: int) -> Tensor:
    """See [out, in] as [panels, words, 64, inputs of a word]."""
    return weight.view(weight.shape[0] // _PANEL, _PANEL, -1, per_word).transpose(1, 2)
