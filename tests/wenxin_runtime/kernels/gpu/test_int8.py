import pytest
import torch
import torch.nn.functional as F

from tests.wenxin_runtime.kernels.gpu.compile_for import CARDS
from tests.wenxin_runtime.kernels.gpu.steps import close
from wenxin_runtime.kernels.gpu import GpuKernels
from wenxin_runtime.kernels.gpu.device import Card
from wenxin_runtime.kernels.gpu.linear import int8_tiles
from wenxin_runtime.kernels.gpu.product import quantize, tiles_for
from wenxin_runtime.kernels.reference import ReferenceKernels

INT8 = GpuKernels(int8=True)
H200 = Card(multiprocessors=132, shared_bytes=227 * 1024)


def restored(weight):
    rounded, scales = quantize(weight)
    return rounded.float() * scales[..., None]


@pytest.mark.parametrize(("rows", "depth", "width"), [(1, 64, 48), (5, 100, 33), (40, 128, 80), (70, 48, 16)])
@pytest.mark.parametrize("biased", [False, True])
def test_an_int8_linear_equals_the_product_with_its_rounded_weight(rows, depth, width, biased, device):
    weight = torch.randn(width, depth, device=device)
    bias = torch.randn(width, device=device) if biased else None
    x = torch.randn(rows, depth, device=device)
    close(INT8.linear(weight, bias)(x), F.linear(x, restored(weight), bias), torch.float32)


def test_an_int8_linear_keeps_the_rows_dtype(dtype, device):
    weight = torch.randn(48, 64).to(device, dtype)
    x = torch.randn(3, 64).to(device, dtype)
    got = INT8.linear(weight)(x)
    assert got.dtype == dtype
    close(got, F.linear(x.float(), restored(weight)), dtype)


def test_int8_experts_equal_the_mixture_with_their_rounded_weights(dtype, device):
    gate_up = [torch.randn(80, 48).to(device, dtype) / 7 for _ in range(8)]
    down = [torch.randn(48, 40).to(device, dtype) / 7 for _ in range(8)]
    x = torch.randn(6, 48).to(device, dtype)
    chosen = torch.rand(6, 8).topk(3).indices.to(device)
    shares = torch.rand(6, 3).to(device, dtype)
    wanted = ReferenceKernels().experts([restored(w) for w in gate_up], [restored(w) for w in down])(
        x.float(), chosen, shares.float()
    )
    close(INT8.experts(gate_up, down)(x, chosen, shares), wanted, dtype)


def test_rounding_to_int8_errs_by_half_a_step_at_most_and_takes_a_row_of_zeros():
    weight = torch.randn(5, 300)
    weight[2] = 0
    rounded, scales = quantize(weight)
    assert rounded.dtype == torch.int8
    assert rounded[2].count_nonzero() == 0
    assert ((rounded * scales[:, None] - weight).abs() <= scales[:, None] * 0.5001).all()


def test_few_rows_take_narrow_tiles_until_every_multiprocessor_has_work():
    assert int8_tiles(1, 103424, 2, H200).columns == 64
    assert int8_tiles(1, 2560, 2, H200).columns == 16
    assert int8_tiles(4096, 2560, 2, H200).columns == 128


def test_a_card_with_little_shared_memory_gets_small_tiles():
    small = Card(multiprocessors=40, shared_bytes=64 * 1024)
    assert tiles_for(4096, 2, small).rows == 64
    assert tiles_for(4096, 2, small).stages == 2
    assert tiles_for(4096, 4, H200).depth == 32


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_all_stages_of_every_tile_fit_the_card(card, element_bytes):
    for rows in (1, 20, 60, 5000):
        tiles = tiles_for(rows, element_bytes, card)
        assert tiles.stages * (tiles.rows + tiles.columns) * tiles.depth * element_bytes <= card.shared_bytes
