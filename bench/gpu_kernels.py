"""Each GPU kernel alone, beside what torch offers for the same: microseconds, and the share of what the card can do.

    python -m bench.gpu_kernels              # the shapes of 0.3B and 21B on the GPU here, about five minutes
    python -m bench.gpu_kernels --quick      # a tiny shape, interpreted where there is no GPU; writes nothing

The bytes of a kernel are those that it must read and write at least, its FLOP those of its products. The weights
of linear layers change from call to call; times are medians of calls in a CUDA graph. What a whole decode step takes,
beside the memory's roofline, is `python -m bench.offline --device cuda`.
"""

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.environment import Rates, Recording, Row, write_result
from wenxin_runtime.kernels.gpu import GpuKernels
from wenxin_runtime.kernels.gpu.sampling import draw
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.layers.attention import AttentionInput, Span

_BLOCK_SIZE = 16
# Weights in turn, so that none is still in the card's cache when it comes again.
_COPIES = 4
# Calls in one graph.
_CALLS = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer of a model."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    experts: int = 0
    top_k: int = 0
    expert_width: int = 0


SHAPES = {
    "0.3b": Shape(1024, 16, 2, 128, 3072, 103424),
    "21b-a3b": Shape(2560, 20, 4, 128, 12288, 103424, 64, 6, 1536),
}
_TINY = Shape(32, 4, 2, 16, 48, 64, 4, 2, 16)


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel and its rival; each call may take other weights than the one before."""

    kernel: str
    ours: Callable[[], object]
    theirs: Callable[[], object] | None
    moved_bytes: float
    flop: float = 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every kernel, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that it works")
    parser.add_argument("--context", type=int, default=2048, help="tokens in the cache of each sequence")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.quick:
        parser.error("there is no GPU here; --quick shows that the benchmark works")
    recording = Recording(device.type, quick=options.quick)
    measured = list(_measure(_TINY, "tiny", (2,), 9, device, 1)) if options.quick else []
    for name, shape in () if options.quick else SHAPES.items():
        measured += _measure(shape, name, (1, 64, 2048), options.context, device, 50)
    environment = recording.facts()
    rows = [_row(*each, recording.best) for each in measured]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if not options.quick:
        print("written to", write_result("gpu_kernels", environment, rows, plan={"context": options.context}))


def _measure(
    shape: Shape, name: str, batches: Sequence[int], context: int, device: torch.device, repeats: int
) -> Iterator[tuple[str, int, Case, float, float | None]]:
    """Give model, rows, case and the median seconds of both; many rows are one prompt, few are a decode each."""
    dtype = torch.bfloat16
    with torch.inference_mode():
        for rows in batches:
            for case in _cases(shape, rows, context, device, dtype):
                theirs = _seconds(case.theirs, repeats, device) if case.theirs else None
                yield name, rows, case, _seconds(case.ours, repeats, device), theirs


def _cases(shape: Shape, rows: int, context: int, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    random = Random(device, dtype)
    yield from _elementwise(shape, rows, random)
    yield from _attention(shape, rows, context, random)
    yield from _int8(shape, rows, random)
    if shape.experts:
        yield from _experts(shape, rows, random)
    if rows <= 64:
        yield from _sampling(shape, rows, random)


@dataclass(frozen=True, slots=True)
class Random:
    """Makes inputs."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Draw a normal tensor."""
        return torch.randn(shape, device=self.device, dtype=self.dtype) * scale

    def rotation(self, make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
        """Make several of the same and call them in turn."""
        made = [make() for _ in range(_COPIES if self.device.type == "cuda" else 1)]
        state = {"next": 0}

        def call() -> object:
            state["next"] += 1
            return made[state["next"] % len(made)]()

        return call


def _elementwise(shape: Shape, rows: int, random: Random) -> Iterator[Case]:
    ours, theirs = GpuKernels(), ReferenceKernels()
    x, residual, weight = random(rows, shape.hidden), random(rows, shape.hidden), random(shape.hidden)
    yield Case(
        "add_rms_norm",
        lambda: ours.add_rms_norm_(residual, x, weight, 1e-5),
        lambda: theirs.add_rms_norm_(residual, x, weight, 1e-5),
        4 * x.nbytes,
    )
    gate_up = random(rows, 2 * shape.feed_forward)
    yield Case(
        "silu_and_mul",
        lambda: ours.silu_and_mul(gate_up),
        lambda: theirs.silu_and_mul(gate_up),
        1.5 * gate_up.nbytes,
    )


def _attention(shape: Shape, rows: int, context: int, random: Random) -> Iterator[Case]:
    """Decode `rows` sequences up to 64 rows, beyond one prompt of so many; torch attends over dense keys and values."""
    decodes = rows <= 64
    sequences, count = (rows, 1) if decodes else (1, rows)
    length = max(context, count)
    step, blocks = _step(sequences, count, length, random.device)
    cache = random(blocks, _BLOCK_SIZE, 2 * shape.kv_heads, shape.head_dim)
    qkv = random(rows, shape.heads + 2 * shape.kv_heads, shape.head_dim)
    turns = torch.rand(rows, shape.head_dim // 2, 2, device=random.device)
    ours, theirs = GpuKernels(), ReferenceKernels()
    yield Case(
        "rotate_and_write",
        lambda: ours.rotate_and_write_(qkv, turns, cache, step.slots, shape.heads),
        lambda: theirs.rotate_and_write_(qkv, turns, cache, step.slots, shape.heads),
        2 * qkv.nbytes,
    )
    q = qkv[:, : shape.heads]
    dense = random(2, sequences, shape.kv_heads, length, shape.head_dim)
    spread = q.view(sequences, count, shape.heads, shape.head_dim).transpose(1, 2)
    seen = length - (count - 1) / 2
    yield Case(
        "attend (decode)" if decodes else "attend (prompt)",
        lambda: ours.attend(q, cache, dataclasses.replace(step, spans=()) if decodes else step),
        lambda: F.scaled_dot_product_attention(spread, dense[0], dense[1], is_causal=not decodes, enable_gqa=True),
        dense.nbytes + 2 * q.numel() * q.element_size(),
        4 * rows * shape.heads * shape.head_dim * seen,
    )


def _step(sequences: int, count: int, length: int, device: torch.device) -> tuple[AttentionInput, int]:
    per_sequence = -(-length // _BLOCK_SIZE)
    blocks = sequences * per_sequence
    tables = torch.randperm(blocks).view(sequences, per_sequence)
    last = torch.arange(length - count, length)
    slots = tables[:, last // _BLOCK_SIZE] * _BLOCK_SIZE + last % _BLOCK_SIZE
    step = AttentionInput(
        slots.flatten().to(device),
        (torch.arange(sequences + 1) * count).int().to(device),
        torch.full((sequences,), length, dtype=torch.int32, device=device),
        tables.int().to(device),
        tuple(Span(i * count, count, length) for i in range(sequences)),
    )
    return step, blocks


def _int8(shape: Shape, rows: int, random: Random) -> Iterator[Case]:
    """Compare an int8 linear layer with torch's own product in the activations' dtype."""
    x, width = random(rows, shape.hidden), 2 * shape.feed_forward

    def linear(kernels: GpuKernels) -> Callable[[], object]:
        apply = kernels.linear(random(width, shape.hidden, scale=0.02))
        return lambda: apply(x)

    yield Case(
        "linear (int8)",
        random.rotation(lambda: linear(GpuKernels(int8=True))),
        random.rotation(lambda: linear(GpuKernels())),
        width * shape.hidden + x.nbytes + rows * width * x.element_size(),
        2 * rows * width * shape.hidden,
    )


def _experts(shape: Shape, rows: int, random: Random) -> Iterator[Case]:
    """Compare routing with torch's operators, and the mixture with its grouped products on sorted rows."""
    x = random(rows, shape.hidden)
    gate, bias = random(shape.experts, shape.hidden), torch.zeros(1, shape.experts, device=random.device)
    ours = GpuKernels().router(gate, bias, shape.top_k, 1e-12)
    theirs = ReferenceKernels().router(gate, bias, shape.top_k, 1e-12)
    yield Case("router", lambda: ours(x), lambda: theirs(x), 4 * gate.numel() + x.nbytes)
    chosen, weights = theirs(x)
    hit = len(set(chosen.flatten().tolist()))
    per_expert = 3 * shape.expert_width * shape.hidden
    for int8 in (False, True):
        experts = GpuKernels(int8=int8).experts(
            [random(2 * shape.expert_width, shape.hidden, scale=0.02) for _ in range(shape.experts)],
            [random(shape.hidden, shape.expert_width, scale=0.02) for _ in range(shape.experts)],
        )
        yield Case(
            "experts (int8)" if int8 else "experts",
            lambda experts=experts: experts(x, chosen, weights),  # type: ignore[misc]
            None if int8 else _grouped(shape, x, chosen, weights, random),
            hit * per_expert * (1 if int8 else x.element_size()) + 2 * x.nbytes,
            2 * chosen.numel() * per_expert,
        )


def _grouped(shape: Shape, x: Tensor, chosen: Tensor, weights: Tensor, random: Random) -> Callable[[], object] | None:
    """Say the same with torch.nn.functional.grouped_mm, where this torch has it."""
    grouped_mm = getattr(F, "grouped_mm", None)
    if grouped_mm is None:
        return None
    numbers = torch.arange(shape.experts, device=x.device)
    wide = random(shape.experts, shape.hidden, 2 * shape.expert_width, scale=0.02)
    narrow = random(shape.experts, shape.expert_width, shape.hidden, scale=0.02)

    def call() -> Tensor:
        order = chosen.flatten().argsort(stable=True)
        ends = torch.searchsorted(chosen.flatten()[order], numbers, right=True).int()
        gate, up = grouped_mm(x[order // shape.top_k], wide, offs=ends).chunk(2, dim=-1)
        said = grouped_mm(F.silu(gate) * up, narrow, offs=ends) * weights.flatten()[order, None]
        return torch.zeros_like(x).index_add_(0, order // shape.top_k, said)

    return call


def _sampling(shape: Shape, rows: int, random: Random) -> Iterator[Case]:
    logits = random(rows, shape.vocabulary).float()
    points, none = torch.rand(rows, device=random.device), torch.zeros(rows, device=random.device)
    most = torch.full((rows,), 0.8, device=random.device)
    yield Case(
        "draw (top_p)",
        lambda: draw(logits, points, none, most),
        lambda: logits.sort(dim=-1, descending=True),  # what a draw without the kernel begins with
        logits.nbytes,
    )


def _seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Take the median time of a call; on a GPU of calls in a graph, so that launching them from here takes no part."""
    call()
    if device.type == "cpu":
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS):
            call()
    found: list[float] = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / _CALLS)
    return statistics.median(found)


def _row(name: str, rows: int, case: Case, ours: float, theirs: float | None, rates: Rates) -> Row:
    return {
        "model": name,
        "rows": rows,
        "kernel": case.kernel,
        "us": round(ours * 1e6, 1),
        "torch_us": None if theirs is None else round(theirs * 1e6, 1),
        "gb_per_s": round(case.moved_bytes / ours / 1e9, 1),
        "share_of_read_bandwidth": round(case.moved_bytes / ours / rates.read, 3),
        "tflop_per_s": round(case.flop / ours / 1e12, 2),
        "share_of_gemm_rate": round(case.flop / ours / rates.gemm, 3),
    }


if __name__ == "__main__":
    main()
