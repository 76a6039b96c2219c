import pytest
import torch

from tests.wenxin_runtime.kernels.gpu.steps import close
from wenxin_runtime.kernels.gpu import GpuKernels
from wenxin_runtime.kernels.gpu.alignment import align, most_blocks
from wenxin_runtime.kernels.reference import ReferenceKernels

GPU, REFERENCE = GpuKernels(), ReferenceKernels()
OF_NAN = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy


def routers(experts, top_k, hidden, device, bias=None):
    weight = torch.randn(experts, hidden, device=device)
    bias = torch.zeros(1, experts, device=device) if bias is None else bias.to(device)
    return GPU.router(weight, bias, top_k, 1e-12), REFERENCE.router(weight, bias, top_k, 1e-12)


@pytest.mark.parametrize(("experts", "top_k"), [(64, 6), (64, 8), (8, 3), (5, 5), (7, 1)])
@pytest.mark.parametrize("rows", [2, 18])
def test_the_router_chooses_and_weighs_as_the_reference(experts, top_k, rows, device):
    ours, reference = routers(experts, top_k, 96, device, torch.randn(1, experts) * 0.1)
    x = torch.randn(rows, 96, device=device)
    (chosen, weights), (wanted, wanted_weights) = ours(x), reference(x)
    assert torch.equal(chosen, wanted)
    assert weights.dtype == x.dtype
    close(weights, wanted_weights, torch.float32)


def test_the_router_answers_in_the_rows_dtype(dtype, device):
    ours, reference = routers(64, 6, 48, device)
    x = torch.randn(4, 48).to(device, dtype)
    (chosen, weights), (wanted, wanted_weights) = ours(x), reference(x)
    assert torch.equal(chosen, wanted)
    assert weights.dtype == dtype
    close(weights, wanted_weights, dtype)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_the_correction_bias_selects_and_never_weighs(size, device):
    bias = torch.zeros(1, 64)
    bias[0, 17] = size
    ours, reference = routers(64, 6, 48, device, bias)
    x = torch.randn(4, 48, device=device)
    (chosen, weights), (wanted, wanted_weights) = ours(x), reference(x)
    assert (chosen[:, 0] == 17).all()
    assert torch.equal(chosen[:, 0], wanted[:, 0])
    assert weights.isfinite().all()
    if size == 1.0:  # beside a larger one the scores differ by less than float32 holds, and any choice will do
        assert torch.equal(chosen, wanted)
        close(weights, wanted_weights, torch.float32)


def test_equal_scores_go_to_the_lower_expert(device):
    ours, _ = routers(8, 3, 16, device)
    chosen, weights = ours(torch.zeros(2, 16, device=device))
    assert chosen.tolist() == [[0, 1, 2]] * 2
    close(weights, torch.full((2, 3), 1 / 3, device=device), torch.float32)


@OF_NAN
@pytest.mark.parametrize("rows", [3, 20])
def test_a_row_of_nan_gets_valid_experts_and_harms_no_other(rows, device):
    ours, _ = routers(64, 6, 48, device)
    x = torch.randn(rows, 48, device=device)
    wanted, wanted_weights = ours(x)
    x[1] = float("nan")
    chosen, weights = ours(x)
    assert sorted(chosen[1].tolist()) == [0, 1, 2, 3, 4, 5]
    assert weights[1].isnan().all()
    others = [i for i in range(rows) if i != 1]
    assert torch.equal(chosen[others], wanted[others])
    assert torch.equal(weights[others], wanted_weights[others])


@pytest.mark.parametrize(("rows", "experts", "top_k", "block_m"), [(1, 64, 6, 16), (37, 8, 3, 16), (150, 4, 2, 32)])
def test_the_layout_holds_every_pair_once_in_blocks_of_one_expert(rows, experts, top_k, block_m, device):
    chosen = torch.rand(rows, experts).topk(top_k).indices.to(device)
    found = align(chosen, experts, block_m)
    used = int(found.used)
    assert used <= most_blocks(rows * top_k, experts, block_m)
    owners = found.owners[:used].cpu()
    assert owners.tolist() == sorted(owners.tolist())
    blocks = found.pairs.view(-1, block_m)[:used].cpu()
    real = blocks < rows * top_k
    assert sorted(blocks[real].tolist()) == list(range(rows * top_k))
    assert torch.equal(chosen.flatten().cpu()[blocks[real]], owners[:, None].expand_as(blocks)[real].long())


def make_experts(experts, hidden, width, dtype, device):
    gate_up = [(torch.randn(2 * width, hidden) / hidden**0.5).to(device, dtype) for _ in range(experts)]
    down = [(torch.randn(hidden, width) / width**0.5).to(device, dtype) for _ in range(experts)]
    return gate_up, down


@pytest.mark.parametrize(
    ("rows", "experts", "top_k", "hidden", "width"),
    [(1, 64, 6, 32, 24), (2, 64, 8, 64, 48), (30, 4, 2, 48, 40), (90, 3, 2, 80, 72), (70, 1, 1, 32, 16)],
)
def test_the_mixture_equals_the_reference(rows, experts, top_k, hidden, width, device):
    weights = make_experts(experts, hidden, width, torch.float32, device)
    x = torch.randn(rows, hidden, device=device)
    chosen = torch.rand(rows, experts).topk(top_k).indices.to(device)
    shares = torch.rand(rows, top_k, device=device)
    wanted = REFERENCE.experts(*weights)(x, chosen, shares)
    close(GPU.experts(*weights)(x, chosen, shares), wanted, torch.float32)


def test_the_mixture_equals_the_reference_in_every_dtype(dtype, device):
    gate_up, down = make_experts(8, 64, 48, dtype, device)
    x = torch.randn(7, 64).to(device, dtype)
    chosen = torch.rand(7, 8).topk(3).indices.to(device)
    shares = torch.rand(7, 3).to(device, dtype)
    wanted = REFERENCE.experts([w.float() for w in gate_up], [w.float() for w in down])(
        x.float(), chosen, shares.float()
    )
    close(GPU.experts(gate_up, down)(x, chosen, shares), wanted, dtype)


@OF_NAN
def test_the_mixture_is_the_same_to_the_last_bit_every_time_and_for_every_neighbour(device):
    mix = GPU.experts(*make_experts(8, 48, 40, torch.float32, device))
    x = torch.randn(9, 48, device=device)
    chosen = torch.rand(9, 8).topk(3).indices.to(device)
    shares = torch.rand(9, 3, device=device)
    once = mix(x, chosen, shares)
    assert torch.equal(mix(x, chosen, shares), once)
    x[1] = float("nan")
    again = mix(x, chosen, shares)
    others = [i for i in range(9) if i != 1]
    assert torch.equal(again[others], once[others])
    assert again[1].isnan().all()
