from bench import cpu_kernels, environment


def test_the_benchmark_measures_every_kind_of_weight_and_a_quick_run_publishes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "RESULTS", tmp_path / "results")
    cpu_kernels.main(["--quick"])
    rows = [dict(cell.split(" ", 1) for cell in line.split("  ")) for line in capsys.readouterr().out.splitlines()]
    linear = {"kernel", "gb_per_s"}
    assert {row["rows"] for row in rows if linear <= set(row)} == {"1", "4", "16", "128"}
    assert sum(row.get("kernel") == "ours int8" for row in rows) == 4
    assert [row["dtype"] for row in rows if "dtype" in row] == ["float32", "bfloat16"]
    assert not (tmp_path / "results").exists()
