import pytest
import torch

from tests.wenxin_runtime.kernels.cpu.nearness import close
from tests.wenxin_runtime.kernels.gpu.steps import make_cache, make_step
from wenxin_runtime.kernels.reference import ReferenceKernels

SHAPES = [(1, 64), (1, 1), (3, 7), (17, 1000), (60, 2560)]
reference = ReferenceKernels()


@pytest.mark.parametrize(("rows", "hidden"), SHAPES)
def test_norms_equal_the_reference_and_the_residual_takes_the_sum(kernels, dtype, rows, hidden):
    x, residual, weight = (torch.randn(*size).to(dtype) for size in ((rows, hidden), (rows, hidden), (hidden,)))
    close(kernels.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    theirs = residual.clone()
    wanted = reference.add_rms_norm_(theirs, x, weight, 1e-5)
    close(kernels.add_rms_norm_(residual, x, weight, 1e-5), wanted)
    assert torch.equal(residual, theirs)


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_the_gated_activation_equals_the_reference(kernels, dtype, rows, width):
    gate_up = (torch.randn(rows, 2 * width) * 20).to(dtype)
    close(kernels.silu_and_mul(gate_up), reference.silu_and_mul(gate_up))


def test_the_gated_activation_knows_the_ends_of_the_line(kernels, dtype):
    gate = torch.tensor([[-1e30, -100.0, -87.5, -0.0, 0.0, 88.5, 1e30, float("nan"), float("inf")]]).to(dtype)
    got = kernels.silu_and_mul(torch.cat([gate, torch.ones_like(gate)], dim=1))
    wanted = reference.silu_and_mul(torch.cat([gate, torch.ones_like(gate)], dim=1))
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(16, 2, 128), (3, 3, 2), (5, 1, 80)])
@pytest.mark.parametrize("sequences", [[(20, 1)], [(9, 5), (100, 60), (1, 1)]])
def test_rotation_and_cache_equal_the_reference(kernels, dtype, heads, kv_heads, head_dim, sequences):
    step, blocks = make_step(sequences, 16, torch.device("cpu"))
    rows = step.slots.shape[0]
    cache = make_cache(blocks, 16, kv_heads, head_dim, dtype, torch.device("cpu"))
    qkv = torch.randn(rows, heads + 2 * kv_heads, head_dim).to(dtype)
    angles = torch.rand(rows, head_dim // 2) * 1000
    turns = torch.stack((angles.cos(), angles.sin()), dim=-1)
    their_qkv, their_cache = qkv.clone(), cache.clone()
    reference.rotate_and_write_(their_qkv, turns, their_cache, step.slots, heads)
    kernels.rotate_and_write_(qkv, turns, cache, step.slots, heads)
    close(qkv, their_qkv)
    close(cache, their_cache)
    assert torch.equal(cache.flatten(0, 1)[step.slots], qkv[:, heads:])
