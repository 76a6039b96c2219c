import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.wenxin_runtime.kernels.gpu.steps import make_step
from wenxin_runtime.kernels.cpu import library
from wenxin_runtime.kernels.cpu.kernels import CpuKernels

IN_A_CHILD = """
import os, torch
from wenxin_runtime.kernels.cpu import library
from wenxin_runtime.kernels.cpu.kernels import CpuKernels
torch.set_num_threads(3)
linear = CpuKernels(library.load()).linear(torch.randn(512, 512))
x = torch.randn(40, 512)
wanted = linear(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(linear(x), wanted) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(linear(x), wanted)
"""


@pytest.fixture
def threads(compiled):
    yield compiled.wx_threads
    compiled.wx_threads(torch.get_num_threads())


def workers():
    """The pool's own threads: (id, state, CPU ticks)."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        name, _, rest = (task / "stat").read_text().partition(" (")[2].rpartition(") ")
        fields = rest.split()
        if name == "wenxin-kernels":
            found.append((task.name, fields[0], int(fields[11]) + int(fields[12])))
    return sorted(found)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def everything(kernels):
    """One call of each kernel, large enough to be worth a team."""
    dice = torch.Generator().manual_seed(4)

    def random(*shape):
        return torch.randn(shape, generator=dice)

    linear, x = kernels.linear(random(1000, 512)), random(40, 512)
    yield linear(x)
    yield linear(x[:1])
    for sequences in ([(3000, 1)], [(70, 70), (200, 1)]):  # parts spread over threads, and units
        step, blocks = make_step(sequences, 16, torch.device("cpu"))
        cache = random(blocks, 16, 4, 32)
        yield kernels.attend(random(step.slots.shape[0], 8, 32), cache, step)
    experts = kernels.experts([random(128, 512) for _ in range(8)], [random(512, 64) for _ in range(8)])
    chosen, weights = kernels.router(random(8, 512), random(1, 8), 3, 1e-12)(random(400, 512))
    yield experts(random(400, 512), chosen, weights)
    yield kernels.rms_norm(random(100, 512), random(512), 1e-5)
    yield kernels.silu_and_mul(random(100, 1024))


def test_any_number_of_threads_gives_the_same_bits(compiled, threads):
    kernels = CpuKernels(compiled)

    def on(count):
        torch.manual_seed(45)
        threads(count)
        return list(everything(kernels))

    wanted = on(1)
    for count in (2, 5, 0):
        for _ in range(3):
            assert all(torch.equal(got, alone) for got, alone in zip(on(count), wanted, strict=True))


def test_an_idle_pool_sleeps(compiled, threads):
    linear = CpuKernels(compiled).linear(torch.randn(1000, 512))
    threads(3)  # after the kernels, which take torch's number
    linear(torch.randn(40, 512))
    # A worker that came too late for the region may not even have its name yet.
    wait_until(lambda: len(found := workers()) >= 2 and all(state == "S" for _, state, _ in found))
    before = workers()
    square = torch.randn(400, 400)
    for _ in range(50):
        square = square @ square.softmax(0)  # time passes
    assert workers() == before


def test_a_second_caller_gets_its_answer_too(compiled, threads):
    threads(2)
    linear, x = CpuKernels(compiled).linear(torch.randn(1000, 512)), torch.randn(40, 512)
    wanted = linear(x)
    right = []

    def work():
        right.append(all(torch.equal(linear(x), wanted) for _ in range(50)))

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [True] * 4


def test_a_forked_child_computes_with_threads_of_its_own():
    done = subprocess.run([sys.executable, "-c", IN_A_CHILD], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("threads")
def test_the_pool_takes_torchs_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        CpuKernels(library.load()).linear(torch.randn(1000, 512))(torch.randn(40, 512))
    finally:
        torch.set_num_threads(before)
    assert len(workers()) >= 3
    assert os.getpid() != int(workers()[0][0])
