"""Compile every kernel, as its wrapper launches it, for cards that need not be here; run without the interpreter.

`python -m tests.wenxin_runtime.kernels.gpu.compile_for cuda:90 bfloat16` writes one JSON line per kernel: target, name,
the shared memory it takes, and the bytes of registers that it spills to memory.
"""

import contextlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from wenxin_runtime.kernels import gpu
from wenxin_runtime.kernels.gpu import attention, experts, linear, sampling
from wenxin_runtime.kernels.gpu.device import Card
from wenxin_runtime.layers.attention import AttentionInput, Span

CARDS = {
    "cuda:75": Card(multiprocessors=40, shared_bytes=64 * 1024),
    "cuda:80": Card(multiprocessors=108, shared_bytes=163 * 1024),
    "cuda:89": Card(multiprocessors=142, shared_bytes=99 * 1024),
    "cuda:90": Card(multiprocessors=132, shared_bytes=227 * 1024),
    "cuda:100": Card(multiprocessors=148, shared_bytes=227 * 1024),
    "hip:gfx90a": Card(multiprocessors=104, shared_bytes=64 * 1024),
    "hip:gfx942": Card(multiprocessors=304, shared_bytes=64 * 1024),
}
# hidden, heads, kv_heads, head_dim, experts, top_k, expert width
MODELS = {
    "0.3b": (1024, 16, 2, 128, 0, 0, 0),
    "21b": (2560, 20, 4, 128, 64, 6, 1536),
    "300b": (8192, 64, 8, 128, 64, 8, 3584),
}


def target_of(name: str) -> GPUTarget:
    backend, arch = name.split(":")
    return GPUTarget(backend, int(arch) if backend == "cuda" else arch, 64 if backend == "hip" else 32)


@contextlib.contextmanager
def compiling(target: str) -> Iterator[list[dict[str, Any]]]:
    """Compile what is launched on meta tensors, once per specialisation, in place of running it."""
    found: list[dict[str, Any]] = []
    seen: set[str] = set()

    def compile_instead(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        del grid, warmup
        source, options = source_of(kernel, args, kwargs)
        key = f"{kernel.__name__} {source.signature} {source.constants} {options}"
        if key not in seen:
            seen.add(key)
            found.append(facts_of(triton.compile(source, target=target_of(target), options=options), target))

    run, JITFunction.run = JITFunction.run, compile_instead
    modules = (attention, experts, linear)
    for module in modules:
        module.card = lambda _: CARDS[target]  # asked for the card of the tensors' device, and meta has none
    try:
        yield found
    finally:
        JITFunction.run = run


def source_of(kernel: JITFunction[Any], args: Any, kwargs: dict[str, Any]) -> tuple[ASTSource, dict[str, Any]]:
    """Say what the launcher would compile: types, constants, and that every tensor starts at a multiple of 16 bytes."""
    parameters = inspect.signature(kernel.fn).parameters
    bound = inspect.signature(kernel.fn).bind(*args, **{k: v for k, v in kwargs.items() if k in parameters}).arguments
    constant = {name for name, p in parameters.items() if "constexpr" in str(p.annotation)}
    signature = {name: "constexpr" if name in constant else type_of(value) for name, value in bound.items()}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, value) in enumerate(bound.items())
        if name not in constant and (isinstance(value, Tensor) or (name.endswith("stride") and value % 16 == 0))
    }
    source = ASTSource(kernel, signature, {name: bound[name] for name in constant}, aligned)
    return source, {name: value for name, value in kwargs.items() if name not in parameters}


def type_of(value: Any) -> str:
    if isinstance(value, Tensor):
        short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int32": "i32", "int64": "i64", "int8": "i8"}
        return "*" + short[str(value.dtype).removeprefix("torch.")]
    return "fp32" if isinstance(value, float) else "i32"


def facts_of(compiled: Any, target: str) -> dict[str, Any]:
    return {
        "target": target,
        "kernel": compiled.metadata.name,
        "shared": compiled.metadata.shared,
        "spilled": spilled_on_nvidia(compiled) if target.startswith("cuda") else spilled_on_amd(compiled),
    }


def spilled_on_nvidia(compiled: Any) -> int:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return max((int(size) for size in re.findall(r"STACK:(\d+)", usage)), default=0)


def spilled_on_amd(compiled: Any) -> int:
    return sum(4 * int(count) for count in re.findall(r"\.vgpr_spill_count:\s*(\d+)", compiled.asm["amdgcn"]))


def launch_everything(model: str, dtype: torch.dtype, rows: int) -> None:
    """Launch what a model's step of `rows` rows launches: decodes up to 16 rows, else a decode beside a prompt."""
    hidden, heads, kv_heads, head_dim, count, top_k, width = MODELS[model]
    meta = {"device": "meta", "dtype": dtype}
    x, weight = torch.empty(rows, hidden, **meta), torch.empty(hidden, **meta)
    cache = torch.empty(1000, 16, 2 * kv_heads, head_dim, **meta)
    qkv = torch.empty(rows, heads + 2 * kv_heads, head_dim, **meta)
    for kernels in (gpu.GpuKernels(), gpu.GpuKernels(int8=True)):
        kernels.rms_norm(x, weight, 1e-5)
        kernels.add_rms_norm_(x, x, weight, 1e-5)
        step = step_of(rows)
        kernels.rotate_and_write_(qkv, torch.empty(rows, head_dim // 2, 2, device="meta"), cache, step.slots, heads)
        kernels.attend(qkv[:, :heads], cache, step)
        kernels.silu_and_mul(kernels.linear(torch.empty(6 * hidden, hidden, **meta))(x))
        sampling.draw(torch.empty(rows, 103424, device="meta"), *torch.empty(3, rows, device="meta"))
        if count:
            chosen, shares = kernels.router(torch.empty(count, hidden, **meta), weight[:count], top_k, 1e-12)(x)
            wide, narrow = torch.empty(2 * width, hidden, **meta), torch.empty(hidden, width, **meta)
            kernels.experts([wide] * count, [narrow] * count)(x, chosen, shares)


def step_of(rows: int) -> AttentionInput:
    sequences = rows if rows <= 16 else 2
    spans = tuple(Span(0, 1 if rows <= 16 or i == 0 else rows, 4000) for i in range(sequences))
    index = {"device": "meta", "dtype": torch.int32}
    return AttentionInput(
        torch.empty(rows, device="meta", dtype=torch.int64),
        torch.empty(sequences + 1, **index),
        torch.empty(sequences, **index),
        torch.empty(sequences, 8192, **index),
        spans,
    )


def main(targets: str, dtype: str, models: str = "0.3b,21b,300b", rows: str = "1,5,20,300,8192") -> None:
    for target in targets.split(","):
        with compiling(target) as found:
            for model in models.split(","):
                for count in rows.split(","):
                    launch_everything(model, getattr(torch, dtype), int(count))
        for each in found:
            sys.stdout.write(json.dumps(each) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
