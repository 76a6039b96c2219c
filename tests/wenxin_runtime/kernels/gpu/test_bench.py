import pytest

from bench import environment, gpu_kernels


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy
def test_the_benchmark_measures_every_kernel_and_a_quick_run_publishes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "RESULTS", tmp_path / "results")
    gpu_kernels.main(["--quick"])
    rows = [dict(cell.split(" ", 1) for cell in line.split("  ")) for line in capsys.readouterr().out.splitlines()]
    assert [row["kernel"] for row in rows] == [
        "add_rms_norm",
        "silu_and_mul",
        "rotate_and_write",
        "attend (decode)",
        "linear (int8)",
        "router",
        "experts",
        "experts (int8)",
        "draw (top_p)",
    ]
    assert all(float(row["us"]) > 0 for row in rows)
    assert not (tmp_path / "results").exists()
