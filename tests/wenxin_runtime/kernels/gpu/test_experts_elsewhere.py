import torch

from tests.wenxin_runtime.kernels.elsewhere import parts_and_whole
from wenxin_runtime.kernels.gpu import GpuKernels


def test_experts_on_several_ranks_say_together_what_all_say(device):
    torch.testing.assert_close(*parts_and_whole(GpuKernels(), device), atol=1e-5, rtol=1e-4)
