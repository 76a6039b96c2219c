"""Kernels for a CPU, in C: one copy of the weights that both one row and many are multiplied with at full speed.

`build` compiles csrc/ on first use, `library` loads it, `packing` lays out weights, `kernels` is the seam's side.
docs/adr/0009-cpu-kernels.md says why.
"""

import torch

from wenxin_runtime.kernels.cpu import library
from wenxin_runtime.kernels.cpu.kernels import DTYPES, CpuKernels


def cpu_kernels(dtype: torch.dtype, *, int8: bool = False) -> CpuKernels | None:
    """Load the kernels; None where they do not know the dtype, or cannot be had (which the log then says)."""
    found = library.load() if dtype in DTYPES else None
    return CpuKernels(found, int8=int8) if found else None
