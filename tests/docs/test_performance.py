"""The page of performance shows every result, and says what there is none of."""

import json

from docs.performance import BENCH, EXPECTED, RESULTS, performance_page, rows_table

FACTS = {
    "date": "2026-01-31", "cpu": "Some CPU", "cores": 2, "isa": "AVX2", "python": "3.11.7", "commit": "abc1234",
    "dirty": True, "busy": True, "cores_taken_by_others": 1.5, "versions": {"torch": "2.15.0", "transformers": "5.0.0"},
    "read_gb_per_s": {"before": 25.1, "after": 26.0},
}  # fmt: skip


def write(folder, name, benchmark, results, **facts):
    envelope = {"schema": 1, "benchmark": benchmark, "environment": FACTS | facts, "plan": {}, "results": results}
    (folder / f"{name}.json").write_text(json.dumps(envelope))


def test_every_committed_result_is_on_the_page():
    page = performance_page()
    assert [path.stem for path in RESULTS.glob("*.json") if f"(`{path.stem}`)" not in page] == []


def test_a_result_that_no_idle_clean_machine_gave_is_marked(tmp_path):
    write(tmp_path, "peers_cpu", "peers", [{"tokens_per_second": 20.5}])
    page = performance_page(tmp_path)
    assert "at commit `abc1234`, Some CPU, 2 cores, AVX2" in page
    assert "Memory reads 25.1 GB/s (26 afterwards)." in page
    assert "**The tree had uncommitted changes.**" in page
    assert "**The machine was not left alone: others took 1.5 cores.**" in page


def test_what_has_no_result_is_said_to_be_unmeasured_with_the_command_for_it(tmp_path):
    write(tmp_path, "peers_cpu", "peers", [{"tokens_per_second": 20.5}])
    text = performance_page(tmp_path).partition("## Not measured")[2]
    assert "No GPU has run any of this so far." in text
    commands = [command for name, (command, _) in EXPECTED.items() if name != "peers_cpu"]
    assert [command for command in commands if f"`{command}`" not in text] == []
    assert "`python -m bench.peers` |" not in text


def test_what_an_older_result_lacks_is_said_to_be_unmeasured(tmp_path):
    write(tmp_path, "parallel_cpu", "parallel", {"decoding": [{"batch": 1}]})
    page = performance_page(tmp_path)
    assert "### Decoding\n\n| batch |" in page
    text = page.partition("## Not measured")[2]
    assert "| one model on several ranks of a CPU: loading | `python -m bench.parallel` |" in text
    assert "ranks of a CPU: decoding" not in text


def test_a_result_of_a_gpu_names_it(tmp_path):
    gpu = {"gpu": "Some GPU", "gpu_memory_gib": 80, "cuda": "13.0"}
    write(tmp_path, "offline_cuda", "offline", [{"batch": 1}], **gpu)
    page = performance_page(tmp_path)
    assert "Some GPU, 80 GiB, CUDA 13.0" in page
    assert "No GPU has run" not in page


def test_results_that_the_page_does_not_know_become_tables_all_the_same(tmp_path):
    write(tmp_path, "mine", "reconcile", {"first": [{"a_ms": {"p50": 1.5}}], "second": [{"fits": True}]})
    page = performance_page(tmp_path)
    assert "### First\n\n| a ms p50 |\n|---|\n| 1.5 |\n" in page
    assert "### Second\n\n| fits |\n|---|\n| yes |\n" in page


def test_shares_are_percentages_and_columns_that_nobody_fills_are_left_out():
    rows = [{"share_of_read_bandwidth": 0.655, "tokens_per_second": 9.1, "none": None}, {"tokens_per_second": 8.0}]
    assert rows_table(rows) == "| share of read bandwidth | tokens/s |\n|---|---|\n| 65.5% | 9.1 |\n|  | 8.0 |\n"


def test_every_benchmark_is_listed_where_people_look_for_it():
    scripts = {path.stem for path in BENCH.glob("*.py") if "\ndef main(" in path.read_text()}
    readme = (BENCH / "README.md").read_text()
    assert [name for name in scripts if f"`python -m bench.{name}`" not in readme] == []
