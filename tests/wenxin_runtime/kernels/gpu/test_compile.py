import json
import os
import subprocess
import sys

import pytest

from tests.wenxin_runtime.kernels.gpu.compile_for import CARDS

KERNELS = {
    "align_kernel",
    "choose_kernel",
    "combine_kernel",
    "decode_kernel",
    "grouped_kernel",
    "linear_kernel",
    "norm_kernel",
    "prefill_kernel",
    "rotate_and_write_kernel",
    "score_kernel",
    "silu_and_mul_kernel",
    "sum_kernel",
}


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_every_kernel_compiles_for_a_card_that_is_not_here_and_fits_it(target, tmp_path):
    """Interpreted kernels are Python; only a compiler says whether they are Triton.

    Other cards, dtypes and sizes of step: by hand, as `compile_for` says.
    """
    run = subprocess.run(
        [sys.executable, "-m", "tests.wenxin_runtime.kernels.gpu.compile_for", target, "bfloat16", "21b", "8,20"],
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    compiled = [json.loads(line) for line in run.stdout.splitlines()]
    assert {each["kernel"] for each in compiled} == KERNELS
    for each in compiled:
        assert each["shared"] <= CARDS[target].shared_bytes, each
        assert each["spilled"] <= 128, each
