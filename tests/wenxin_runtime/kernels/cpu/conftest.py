import pytest
import torch

from wenxin_runtime.kernels.cpu import library
from wenxin_runtime.kernels.cpu.kernels import CpuKernels


@pytest.fixture(scope="session")
def compiled():
    found = library.load()
    assert found is not None, "no C compiler here; the log says more"
    return found


@pytest.fixture(params=["baseline", "avx2", "avx512", "avx512bf16"])
def instruction_set(request, compiled):
    if library.choose_instruction_set(compiled, request.param) is None:
        pytest.skip(f"this CPU or this compiler has no {request.param}")
    yield compiled
    library.choose_instruction_set(compiled)


@pytest.fixture
def kernels(instruction_set):
    return CpuKernels(instruction_set)


@pytest.fixture
def int8(instruction_set):
    return CpuKernels(instruction_set, int8=True)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(45)


@pytest.fixture(autouse=True)
def one_thread():
    """test_pool.py has as many as it likes; elsewhere they would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
