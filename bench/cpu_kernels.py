"""Each CPU kernel alone: linear layers in every kind of weight beside torch's own and oneDNN's, and attention.

    python -m bench.cpu_kernels              # the layers of 0.3B, about five minutes on two cores
    python -m bench.cpu_kernels --quick      # a tiny layer, to see that it works; writes nothing

Every time is the best of several, and the contestants take turns. A layer's weights are there several times over, so
that none is still in a cache when it comes again. Bandwidth counts the bytes of the weights as they are stored.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.environment import Rates, Recording, Row, write_result
from wenxin_runtime.kernels.cpu import library
from wenxin_runtime.kernels.cpu.kernels import CpuKernels
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.layers.attention import AttentionInput, Span
from wenxin_runtime.layers.linear import PackedLinear

# [out, in] of the 0.3B's matrices, and of a tiny one.
LAYERS = {
    "qkv": (2560, 1024),
    "attention out": (1024, 2048),
    "gate and up": (6144, 1024),
    "down": (1024, 3072),
    "head": (103424, 1024),
}
_TINY = {"tiny": (128, 64)}
_ROWS = (1, 4, 16, 128)
_CACHED_BYTES = 256 * 2**20
_BLOCK_SIZE = 16

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to store a layer and to multiply with it.

    Attributes:
        make: Prepares one weight [out, in], float32.
        dtype: Of the activations.
        weight_bytes: Bytes per weight as stored.
    """

    name: str
    make: Callable[[Tensor], Linear]
    dtype: torch.dtype
    weight_bytes: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny layer, to see that it works")
    parser.add_argument("--repeats", type=int, default=12, help="the best of so many is taken")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    compiled = library.load()
    if compiled is None:
        parser.error("there are no CPU kernels to measure; the log says why")
    recording = Recording(quick=options.quick)
    repeats = 2 if options.quick else options.repeats
    layers = _TINY if options.quick else LAYERS
    kernels = CpuKernels(compiled), CpuKernels(compiled, int8=True)
    with torch.inference_mode():
        measured = [
            row for name, size in layers.items() for row in _linear(name, *size, kernels, repeats, options.quick)
        ]
        attention = list(_attention(kernels[0], repeats, quick=options.quick))
    environment = recording.facts() | {"instruction_set": library.choose_instruction_set(compiled)}
    linear = [_shares(row, recording.best) for row in measured]
    for row in (*linear, *attention):
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        results = {"linear layers": linear, "attention": attention}
        print("written to", write_result("cpu_kernels", environment, results, plan={"repeats": repeats}))


def _contestants(plain: CpuKernels, int8: CpuKernels) -> tuple[Contestant, ...]:
    return (
        Contestant("torch F.linear fp32", lambda w: lambda x: F.linear(x, w), torch.float32, 4),
        Contestant("oneDNN packed fp32", PackedLinear, torch.float32, 4),
        Contestant("ours fp32", plain.linear, torch.float32, 4),
        Contestant("ours fp32, weights of bf16 values", lambda w: plain.linear(_rounded(w)), torch.float32, 2),
        Contestant("ours bf16", lambda w: plain.linear(w.bfloat16()), torch.bfloat16, 2),
        Contestant("ours int8", int8.linear, torch.float32, 1 + 4 / 64),
    )


def _rounded(weight: Tensor) -> Tensor:
    return weight.bfloat16().float()


def _linear(
    name: str, out: int, inputs: int, kernels: tuple[CpuKernels, CpuKernels], repeats: int, quick: bool
) -> Iterator[Row]:
    weight = torch.randn(out, inputs)
    copies = 1 if quick else max(1, _CACHED_BYTES // weight.nbytes)
    ready = [
        (each, [each.make(weight.clone()) for _ in range(copies)]) for each in _contestants(*kernels)
    ]  # each clone is packed apart, or kept
    for rows in _ROWS:
        x = torch.randn(rows, inputs)
        calls = [_in_turn(layers, x.to(each.dtype)) for each, layers in ready]
        for (each, _), seconds in zip(ready, _best(calls, repeats), strict=True):
            yield {
                "layer": name,
                "rows": rows,
                "kernel": each.name,
                "microseconds": seconds / copies * 1e6,
                "gb_per_s": copies * weight.numel() * each.weight_bytes / seconds / 1e9,
                "gflop_per_s": copies * 2 * rows * weight.numel() / seconds / 1e9,
            }


def _in_turn(layers: Sequence[Linear], x: Tensor) -> Callable[[], object]:
    return lambda: [layer(x) for layer in layers]


def _shares(row: Row, rates: Rates) -> Row:
    return {
        **{name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()},
        "share_of_read_bandwidth": round(row["gb_per_s"] * 1e9 / rates.read, 3),
        "share_of_torch_fp32_gemm": round(row["gflop_per_s"] * 1e9 / rates.gemm, 3),
    }


def _attention(kernels: CpuKernels, repeats: int, *, quick: bool) -> Iterator[Row]:
    """Attend with the 0.3B's heads: decodes, and a prompt; the reference gathers the blocks and calls torch."""
    reference = ReferenceKernels()
    heads, kv_heads, head_dim = (4, 2, 16) if quick else (16, 2, 128)
    for sequences, count, length in (
        ((1, 1, 40),) if quick else ((1, 1, 2048), (16, 1, 192), (1, 128, 128), (1, 512, 512))
    ):
        step, blocks = _step(sequences, count, length)
        for dtype in (torch.float32, torch.bfloat16):
            cache = torch.randn(blocks, _BLOCK_SIZE, 2 * kv_heads, head_dim).to(dtype)
            q = torch.randn(sequences * count, heads, head_dim).to(dtype)
            calls = [_attending(each.attend, q, cache, step) for each in (kernels, reference)]
            ours, theirs = _best(calls, repeats)
            yield {
                "sequences": sequences,
                "rows_of_each": count,
                "tokens_of_each": length,
                "dtype": str(dtype).removeprefix("torch."),
                "microseconds": round(ours * 1e6, 1),
                "reference_microseconds": round(theirs * 1e6, 1),
                "gb_per_s": round(sequences * length * 2 * kv_heads * head_dim * dtype.itemsize / ours / 1e9, 1),
                "gflop_per_s": round(
                    4 * sequences * count * heads * head_dim * (length - (count - 1) / 2) / ours / 1e9, 1
                ),
            }


def _attending(
    attend: Callable[[Tensor, Tensor, AttentionInput], Tensor], q: Tensor, cache: Tensor, step: AttentionInput
) -> Callable[[], object]:
    return lambda: attend(q, cache, step)


def _step(sequences: int, count: int, length: int) -> tuple[AttentionInput, int]:
    each = -(-length // _BLOCK_SIZE)
    tables = torch.randperm(sequences * each).view(sequences, each)
    last = torch.arange(length - count, length)
    step = AttentionInput(
        slots=(tables[:, last // _BLOCK_SIZE] * _BLOCK_SIZE + last % _BLOCK_SIZE).flatten(),
        starts=(torch.arange(sequences + 1) * count).int(),
        lengths=torch.full((sequences,), length, dtype=torch.int32),
        block_tables=tables.int(),
        spans=tuple(Span(i * count, count, length) for i in range(sequences)),
    )
    return step, sequences * each


def _best(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Take turns, so that what disturbs the machine disturbs all; give the shortest seconds of each."""
    best = [float("inf")] * len(calls)
    for _ in range(repeats + 1):
        for i, call in enumerate(calls):
            begun = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    main()
