import pytest
import torch

from tests.wenxin_runtime.kernels.elsewhere import parts_and_whole, replaced_and_made
from wenxin_runtime.kernels.gpu import GpuKernels


def test_experts_on_several_ranks_say_together_what_all_say(device):
    torch.testing.assert_close(*parts_and_whole(GpuKernels(), device), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("int8", [False, True])
def test_an_expert_that_takes_anothers_place_speaks_as_if_it_had_always_been_there(device, int8):
    replaced, made = replaced_and_made(GpuKernels(int8=int8), device)
    assert torch.equal(replaced, made)
