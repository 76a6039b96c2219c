import json
import os
import subprocess
import sys

from tests.wenxin_runtime.kernels.gpu.compile_for import CARDS

MODULE = "tests.wenxin_runtime.kernels.gpu.compile_for"
KERNELS = {
    "align_kernel",
    "choose_kernel",
    "combine_kernel",
    "draw_kernel",
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


def test_every_kernel_compiles_for_cards_that_are_not_here_and_fits_them(tmp_path):
    """Interpreted kernels are Python; only a compiler says whether they are Triton.

    Other cards, dtypes and sizes of step: by hand, as `compile_for` says.
    """
    targets = ["cuda:90", "hip:gfx942"]
    run = subprocess.run(
        [sys.executable, "-m", MODULE, ",".join(targets), "bfloat16", "21b", "8,20"],
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    compiled = [json.loads(line) for line in run.stdout.splitlines()]
    assert {(each["target"], each["kernel"]) for each in compiled} == {(t, k) for t in targets for k in KERNELS}
    for each in compiled:
        assert each["shared"] <= CARDS[each["target"]].shared_bytes, each
        assert each["spilled"] <= 128, each
