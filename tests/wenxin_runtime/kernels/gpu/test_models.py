import pytest
import torch

from tests.wenxin_runtime.kernels.gpu.steps import lay_out
from wenxin_runtime import fixture
from wenxin_runtime.engine.graphs import DecodeGraphs, cuda_capture
from wenxin_runtime.fixture.shapes import SHAPES
from wenxin_runtime.kernels.gpu import GpuKernels
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.models import MODELS
from wenxin_runtime.models.builder import Builder
from wenxin_runtime.parallel.ranks import ALONE
from wenxin_runtime.weights.checkpoint import open_checkpoint
from wenxin_runtime.weights.loading import CheckpointSource

BLOCK_SIZE = 4
VOCAB = 1300
TABLES = [[7, 2], [1, 5, 3], [6, 0]]
SCRATCH = 8
PROMPTS = [3, 7, 1]
# Rows of each sequence per step: a first chunk, the rest beside others' first decodes, then decodes.
STEPS = [(3, 5, 1), (1, 2, 1), (1, 1, 1)]
# Half of what the tiny fixture has: the interpreter is slow.
SIZES = {
    "head_dim": 16,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "moe_intermediate_size": 24,
    "moe_k": 2,
    "moe_num_experts": 4,
}


@pytest.fixture(params=["ernie4_5", "ernie4_5_moe"])
def checkpoint(request, tmp_path, monkeypatch):
    sizes = {name: size for name, size in SIZES.items() if "moe" in request.param or "moe" not in name}
    monkeypatch.setitem(SHAPES[request.param], "small", SHAPES[request.param]["tiny"] | sizes)
    return open_checkpoint(str(fixture.write(tmp_path, request.param, "small", vocab_size=VOCAB)))


def load(checkpoint, kernels, device, dtype):
    source = CheckpointSource(checkpoint, device, dtype)
    return MODELS[checkpoint.config.architecture](Builder(checkpoint.config, source, kernels, ALONE))


@torch.inference_mode()
def generate(model, cache, device, steps):
    """Run `steps` greedily; returns each sequence's tokens and the hidden states of every step."""
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randint(3, VOCAB, (count,), generator=generator).tolist() for count in PROMPTS]
    computed, hidden = [0, 0, 0], []
    for counts in steps:
        fed = [own[done : done + count] for own, done, count in zip(tokens, computed, counts, strict=True)]
        positions = [p for done, count in zip(computed, counts, strict=True) for p in range(done, done + count)]
        computed = [done + count for done, count in zip(computed, counts, strict=True)]
        step = lay_out(list(zip(computed, counts, strict=True)), TABLES, BLOCK_SIZE, device)
        ids = torch.tensor([token for own in fed for token in own], device=device)
        out = model(ids, torch.tensor(positions, device=device), cache, step).clone()
        hidden.append(out)
        best = model.logits(out[step.starts[1:].long() - 1]).argmax(dim=-1).tolist()
        for own, done, token in zip(tokens, computed, best, strict=True):
            if done == len(own):
                own.append(token)
    return tokens, hidden


def make_cache(checkpoint, device, dtype):
    config = checkpoint.config
    shape = (config.num_layers, SCRATCH + 1, BLOCK_SIZE, 2 * config.num_kv_heads, config.head_dim)
    return torch.full(shape, float("nan"), device=device, dtype=dtype)


def run(checkpoint, kernels, device, dtype, *, graphs=False, steps=STEPS):
    model, cache = load(checkpoint, kernels, device, dtype), make_cache(checkpoint, device, dtype)
    if graphs:
        capture = cuda_capture() if device.type == "cuda" else lambda step: step
        model = DecodeGraphs(model, cache, 4, 12, capture)
    return generate(model, cache, device, steps)


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_a_whole_model_says_what_the_reference_says(checkpoint, graphs, device):
    tokens, hidden = run(checkpoint, GpuKernels(), device, torch.float32, graphs=graphs)
    wanted, wanted_hidden = run(checkpoint, ReferenceKernels(), device, torch.float32)
    assert tokens == wanted
    for ours, theirs in zip(hidden, wanted_hidden, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_a_whole_model_in_bfloat16_stays_close_to_the_reference(checkpoint, device):
    _, hidden = run(checkpoint, GpuKernels(), device, torch.bfloat16, steps=STEPS[:1])
    _, wanted = run(checkpoint, ReferenceKernels(), device, torch.bfloat16, steps=STEPS[:1])
    error = (hidden[0].double() - wanted[0].double()).norm() / wanted[0].double().norm()
    assert error < 0.03


def test_a_whole_model_in_int8_stays_close_to_the_reference(checkpoint, device):
    _, hidden = run(checkpoint, GpuKernels(int8=True), device, torch.float32, steps=STEPS[:1])
    _, wanted = run(checkpoint, ReferenceKernels(), device, torch.float32, steps=STEPS[:1])
    assert (hidden[0] - wanted[0]).norm() / wanted[0].norm() < 0.05
