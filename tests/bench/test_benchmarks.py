"""The benchmarks run, small: a number that nobody can measure again is none."""

import pytest

from bench import answer_cache, download, environment, llama_environment, offline, parallel, peers, serve
from bench.contestants.protocol import ContestantFailed, Job, Remote

pytestmark = pytest.mark.xdist_group("bench")


@pytest.fixture(autouse=True)
def results_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path / "results")
    yield
    assert not (tmp_path / "results").exists(), "a quick run publishes nothing"


def test_the_engine_alone_is_measured_by_batch_and_by_prompt(capsys):
    offline.main(["--quick", "--variants", "fp32"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines if line.startswith("variant fp32")] == [
        ["variant fp32", "batch 1"],
        ["variant fp32", "batch 4"],
        ["variant fp32", "prompt_tokens 16"],
    ]


def test_ranks_send_each_other_what_the_layout_needs_and_no_more(capsys):
    parallel.main(["--quick"])
    out = capsys.readouterr().out.splitlines()
    rows = [dict(cell.rsplit(" ", 1) for cell in line.split("  ")) for line in out if "of_one_rank" in line]
    sent = [
        (int(row["collective_bytes_per_token"]), int(row["needed_bytes_per_token"])) for row in rows if len(row) > 6
    ]
    assert len(sent) == 4
    assert all(moved == needed for moved, needed in sent[:2]), "within a group, to the byte"
    assert all(moved == pytest.approx(needed, rel=0.1) for moved, needed in sent[2:]), "experts are chosen unevenly"
    assert len([line for line in out if "beside_them_mib" in line]) == 4, "each rank tells what loading took"


def test_a_server_answers_closed_loops_and_poisson_arrivals_without_a_failure(capsys):
    serve.main(["--quick"])
    out = capsys.readouterr().out
    assert "load closed 2  requests 6  failures 0" in out
    assert "load poisson 20  requests 6  failures 0" in out


def test_a_cache_saves_what_is_asked_for_again(capsys):
    answer_cache.main(["--quick"])
    lines = [
        dict(cell.split(" ") for cell in line.split("  ")) for line in capsys.readouterr().out.splitlines()[:3][1:]
    ]
    assert [line["connections"] for line in lines] == ["1", "4"]


def test_a_download_is_measured_beside_curl(capsys):
    download.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        *("unlimited", "way curl, one stream", "way curl, then sha256sum and sync", "way ours"),
        *("limited", "way curl, one stream", "way curl, then sha256sum and sync", "way ours"),
    ]


def test_all_peers_generate_the_tokens_that_we_generate(capsys):
    """llama.cpp takes part where it is built; `python -m bench.peers` builds it."""
    others = ["transformers continuous batching"] + ["llama.cpp f32"] * llama_environment.built()
    peers.main(["--quick", "--precisions", "fp32"] + ["--without-llama-cpp"] * (not llama_environment.built()))
    agreement = capsys.readouterr().out.partition("\nagreement\n")[2].splitlines()
    assert [line.split("  ")[1] for line in agreement] == [f"contestant={name}" for name in ("wenxin", *others)]
    assert all("first_tokens_agree=True" in line for line in agreement)


def test_a_contestant_that_cannot_load_says_why(tmp_path):
    remote = Remote("wenxin", {"model_dir": str(tmp_path), "no_such_field": 1}, tmp_path / "log")
    try:
        with pytest.raises(ContestantFailed, match="ConfigError: this release has no --no-such-field"):
            remote.facts(60)
    finally:
        remote.close()


def test_a_contestant_that_dies_or_is_slow_is_named_and_does_not_hang_the_others(tmp_path):
    dead = Remote("no_such_contestant", {}, tmp_path / "dead.log")
    slow = Remote("wenxin", {}, tmp_path / "slow.log")
    try:
        with pytest.raises(ContestantFailed, match=r"its process ended; its log ends: .*no_such_contestant"):
            dead.ask(Job(((1, 2),), 1), 60)
        with pytest.raises(ContestantFailed, match="no answer within 0 s"):
            slow.facts(0)
    finally:
        dead.close()
        slow.close()
