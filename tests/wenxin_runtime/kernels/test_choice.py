import pytest
import torch

from wenxin_runtime.kernels import choose
from wenxin_runtime.kernels.reference import ReferenceKernels


def test_the_reference_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("WENXIN_KERNELS", "reference")
    assert isinstance(choose(torch.device("cpu"), torch.float32), ReferenceKernels)


def test_a_name_that_is_not_known_is_refused(monkeypatch):
    monkeypatch.setenv("WENXIN_KERNELS", "fastest")
    with pytest.raises(ValueError, match="WENXIN_KERNELS='fastest': only 'reference'"):
        choose(torch.device("cpu"), torch.float32)
