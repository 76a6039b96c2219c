import pytest
import torch

from tests.wenxin_runtime.kernels.cpu.nearness import close
from wenxin_runtime.kernels.reference import ReferenceKernels

reference = ReferenceKernels()


def make_experts(count, hidden, width, dtype):
    widen = [(torch.randn(2 * width, hidden) / hidden**0.5).to(dtype) for _ in range(count)]
    narrow = [(torch.randn(hidden, width) / width**0.5).to(dtype) for _ in range(count)]
    return widen, narrow


def make_routes(rows, count, top_k, dtype):
    chosen = torch.stack([torch.randperm(count)[:top_k] for _ in range(rows)])
    return chosen, torch.rand(rows, top_k).softmax(-1).to(dtype)


@pytest.mark.parametrize(("count", "top_k", "hidden"), [(8, 3, 64), (64, 6, 96), (5, 1, 33), (4, 4, 128)])
@pytest.mark.parametrize("rows", [1, 2, 70])
def test_the_router_chooses_and_weighs_as_the_reference(kernels, dtype, count, top_k, hidden, rows):
    x, weight, bias = torch.randn(rows, hidden).to(dtype), torch.randn(count, hidden), torch.randn(1, count) * 0.02
    chosen, weights = kernels.router(weight, bias, top_k, 1e-12)(x)
    wanted, wanted_weights = reference.router(weight, bias, top_k, 1e-12)(x)
    assert torch.equal(chosen, wanted)
    assert weights.dtype == dtype
    close(weights, wanted_weights)


def test_a_row_that_is_not_a_number_still_gets_experts_that_exist(kernels):
    x = torch.randn(2, 64)
    x[0] = float("nan")
    chosen, weights = kernels.router(torch.randn(8, 64), torch.zeros(1, 8), 3, 1e-12)(x)
    assert len(set(chosen[0].tolist())) == 3
    assert chosen.min() >= 0
    assert chosen.max() < 8
    assert weights[0].isnan().all()
    assert weights[1].isfinite().all()


@pytest.mark.parametrize("rows", [1, 2, 13, 17, 60])
@pytest.mark.parametrize(("count", "top_k", "hidden", "width"), [(8, 3, 64, 48), (5, 5, 33, 70), (64, 6, 128, 64)])
def test_experts_equal_the_reference(kernels, dtype, rows, count, top_k, hidden, width):
    widen, narrow = make_experts(count, hidden, width, dtype)
    x, routes = torch.randn(rows, hidden).to(dtype), make_routes(rows, count, top_k, dtype)
    close(kernels.experts(widen, narrow)(x, *routes), reference.experts(widen, narrow)(x, *routes))


def test_all_rows_may_choose_the_same_expert(kernels, dtype):
    widen, narrow = make_experts(8, 64, 48, dtype)
    x, chosen = torch.randn(50, 64).to(dtype), torch.tensor([[5, 2]]).repeat(50, 1)
    shares = torch.full((50, 2), 0.5).to(dtype)
    close(kernels.experts(widen, narrow)(x, chosen, shares), reference.experts(widen, narrow)(x, chosen, shares))


def test_int8_experts_are_near_the_reference(int8, dtype):
    widen, narrow = make_experts(8, 128, 64, dtype)
    x, routes = torch.randn(20, 128).to(dtype), make_routes(20, 8, 3, dtype)
    close(int8.experts(widen, narrow)(x, *routes), reference.experts(widen, narrow)(x, *routes), 3e-2)


def test_a_rows_mixture_does_not_depend_on_the_rows_beside_it(kernels, int8, dtype):
    widen, narrow = make_experts(8, 128, 64, dtype)
    x, (chosen, shares) = torch.randn(30, 128).to(dtype), make_routes(30, 8, 3, dtype)
    for each in (kernels, int8):
        experts = each.experts(widen, narrow)
        alone = [experts(x[i : i + 1], chosen[i : i + 1], shares[i : i + 1]) for i in range(30)]
        assert torch.equal(experts(x, chosen, shares), torch.cat(alone))


def test_one_experts_float32_beside_bfloat16_values_is_kept(kernels):
    widen, narrow = make_experts(4, 64, 32, torch.float32)
    widen = [widen[0], *(each.bfloat16().float() for each in widen[1:])]
    x, routes = torch.randn(9, 64), make_routes(9, 4, 2, torch.float32)
    close(kernels.experts(widen, narrow)(x, *routes), reference.experts(widen, narrow)(x, *routes))
