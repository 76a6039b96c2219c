import pytest
import torch

from tests.wenxin_runtime.kernels.elsewhere import parts_and_whole
from wenxin_runtime.kernels import choose
from wenxin_runtime.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")


@pytest.mark.parametrize("kernels", [ReferenceKernels(), choose(CPU, torch.float32)], ids=lambda k: type(k).__name__)
def test_experts_on_several_ranks_say_together_what_all_say(kernels):
    torch.testing.assert_close(*parts_and_whole(kernels, CPU))
