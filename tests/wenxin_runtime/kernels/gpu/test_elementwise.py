import pytest
import torch

from tests.wenxin_runtime.kernels.gpu.steps import close, make_cache, make_step
from wenxin_runtime.kernels.gpu import GpuKernels
from wenxin_runtime.kernels.reference import ReferenceKernels
from wenxin_runtime.layers.rotary import Rotary

GPU, REFERENCE = GpuKernels(), ReferenceKernels()


@pytest.mark.parametrize(("rows", "hidden"), [(1, 48), (3, 1024), (5, 2560)])
def test_rms_norm_equals_the_reference(rows, hidden, dtype, device):
    x, weight = torch.randn(rows, hidden).to(device, dtype), torch.randn(hidden).to(device, dtype)
    close(GPU.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x, weight, 1e-5), dtype)


@pytest.mark.parametrize(("rows", "hidden"), [(1, 48), (3, 1000)])
def test_add_rms_norm_adds_to_the_residual_and_normalises_the_sum(rows, hidden, dtype, device):
    x, residual = torch.randn(2, rows, hidden).to(device, dtype)
    weight = torch.randn(hidden).to(device, dtype)
    expected = residual.clone()
    wanted = REFERENCE.add_rms_norm_(expected, x, weight, 1e-5)
    got = GPU.add_rms_norm_(residual, x, weight, 1e-5)
    assert torch.equal(residual, expected)
    close(got, wanted, dtype)


@pytest.mark.parametrize("width", [5, 80, 1536])
def test_silu_and_mul_equals_the_reference(width, dtype, device):
    gate_up = torch.randn(3, 2 * width).to(device, dtype) * 3
    close(GPU.silu_and_mul(gate_up), REFERENCE.silu_and_mul(gate_up), dtype)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (16, 2, 128), (20, 4, 128), (3, 1, 24)])
def test_rotating_and_writing_equals_the_reference_far_into_a_sequence(heads, kv_heads, head_dim, dtype, device):
    step, blocks = make_step([(40, 3), (9, 1)], 16, device)
    cache = make_cache(blocks, 16, kv_heads, head_dim, dtype, device)
    qkv = torch.randn(4, heads + 2 * kv_heads, head_dim).to(device, dtype)
    turns = Rotary(head_dim, 500_000.0, device).turns(torch.tensor([1037, 1038, 1039, 100_008], device=device))
    wanted_cache, wanted = cache.clone(), qkv.clone()
    REFERENCE.rotate_and_write_(wanted, turns, wanted_cache, step.slots, heads)
    values = qkv[:, heads + kv_heads :].clone()
    GPU.rotate_and_write_(qkv, turns, cache, step.slots, heads)
    close(qkv, wanted, dtype)
    close(cache, wanted_cache, dtype)
    assert torch.equal(qkv[:, heads + kv_heads :], values)
    written = cache.view(-1, 2 * kv_heads, head_dim)[step.slots]
    assert torch.equal(written, qkv[:, heads:])
