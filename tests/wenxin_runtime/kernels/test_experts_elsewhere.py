import pytest
import torch

from tests.wenxin_runtime.kernels.elsewhere import parts_and_whole, replaced_and_made
from wenxin_runtime.kernels import choose
from wenxin_runtime.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")
KERNELS = [ReferenceKernels(), choose(CPU, torch.float32)]


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda k: type(k).__name__)
def test_experts_on_several_ranks_say_together_what_all_say(kernels):
    torch.testing.assert_close(*parts_and_whole(kernels, CPU))


@pytest.mark.parametrize("kernels", [*KERNELS, choose(CPU, torch.float32, "int8")], ids=lambda k: type(k).__name__)
def test_an_expert_that_takes_anothers_place_speaks_as_if_it_had_always_been_there(kernels):
    replaced, made = replaced_and_made(kernels, CPU)
    assert torch.equal(replaced, made)


def test_a_float32_expert_may_take_the_place_of_one_whose_values_are_bfloat16():
    gate_up, down = torch.randn(2, 48, 32).bfloat16().float(), torch.randn(2, 32, 24).bfloat16().float()
    other = torch.randn(48, 32), torch.randn(32, 24)
    x, chosen, shares = torch.randn(5, 32), torch.tensor([[0, 1]] * 5), torch.rand(5, 2)
    mixed = []
    for kernels in KERNELS:
        experts = kernels.experts(list(gate_up), list(down))
        experts.replace(1, *other)
        mixed.append(experts(x, chosen, shares))
    torch.testing.assert_close(*mixed)
