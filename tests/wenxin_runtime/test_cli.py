"""The command line: what it teaches, what it refuses, what it leaves behind."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.inspected import INSPECTED
from wenxin_runtime import __version__, config
from wenxin_runtime.__main__ import _parser, exit_status, main
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import CheckpointError, ConfigError


@pytest.fixture
def last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("WENXIN_TERMINATION_LOG", str(path))
    return path


def parsed(*arguments: str) -> RuntimeConfig:
    return config.from_args(_parser().parse_args(["serve", "/models/x", *arguments]))


def test_help_teaches_every_command_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("serve", "fixture", "inspect", "examples:", "文心"))


def test_help_explains_every_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    for name in RuntimeConfig.__dataclass_fields__:
        assert name == "model_dir" or config.flag_of(name) in text
    assert "curl" in text
    assert "(default: 32)" in text
    assert "(default: 0)" in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"wenxin-runtime {__version__}\n"


def test_a_flags_default_is_the_fields_default() -> None:
    assert parsed() == RuntimeConfig(model_dir="/models/x")


def test_flags_are_read_from_a_file_one_per_line(tmp_path: Path) -> None:
    flags = tmp_path / "flags"
    lines = ["# comment", "", "--served-model-name=ernie-4.5", "  --max-num-seqs=64  ", "--no-enable-prefix-caching"]
    flags.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = parsed(f"@{flags}", "--port=0")
    assert found == RuntimeConfig(
        model_dir="/models/x",
        served_model_name=("ernie-4.5",),
        max_num_seqs=64,
        enable_prefix_caching=False,
        port=0,
    )


def test_a_model_may_have_several_names() -> None:
    assert parsed("--served-model-name", "a", "b").served_model_name == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "MODEL_DIR"),
        (["serve", "x", "--port", "http"], "--port"),
        (["serve", "x", "--port", "70000"], "--port"),
        (["serve", "x", "--max-num-seqs", "0"], "--max-num-seqs must be at least 1"),
        (["serve", "x", "--queue-size", "-1"], "--queue-size must not be negative"),
        (["serve", "x", "--drain-timeout", "nan"], "--drain-timeout"),
        (["serve", "x", "--drain-timeout", "inf"], "--drain-timeout"),
        (["serve", "x", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["serve", "x", "--dtype", "int3"], "--dtype"),
        (["serve", "x", "--max-model", "5"], "--max-model"),
        (["serve", "x", "@/no/such/file"], "/no/such/file"),
        (["fixture", "x", "--arch", "gpt"], "--arch"),
        (["conquer"], "conquer"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_flag_is_named_and_exits_2(
    arguments: list[str], message: str, last_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    found = json.loads(last_words.read_text())
    assert found["reason"] == "InvalidFlags"
    assert message in found["message"]
    assert message in capsys.readouterr().err


def test_fixture_writes_a_checkpoint_that_inspect_describes(
    tmp_path: Path, last_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fixture", str(tmp_path / "tiny"), "--dtype", "bfloat16", "--seed", "3"]) == 0
    assert not last_words.exists()
    assert main(["inspect", str(tmp_path / "tiny")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(last_words.read_text()) == printed
    assert printed.keys() == INSPECTED.keys()
    written = json.loads((tmp_path / "tiny" / "config.json").read_text())
    assert printed["hiddenSize"] == written["hidden_size"]
    assert printed["dtype"] == "bfloat16"


def test_inspecting_what_is_no_checkpoint_exits_3(tmp_path: Path, last_words: Path) -> None:
    assert main(["inspect", str(tmp_path / "none")]) == 3
    found = json.loads(last_words.read_text())
    assert found["reason"] == "InvalidCheckpoint"
    assert str(tmp_path / "none") in found["message"]


def test_an_unforeseen_failure_leaves_its_reason_and_its_traceback(last_words: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_status(fail)
    assert json.loads(last_words.read_text()) == {"reason": "InternalError", "message": "ZeroDivisionError"}


@pytest.mark.parametrize("letter", ["x", "汉", "😀", "\x00", '"'])
def test_last_words_fit_into_four_kibibytes(last_words: Path, letter: str) -> None:
    def fail() -> None:
        raise CheckpointError("shard 7: " + letter * 5000)

    assert exit_status(fail) == 3
    assert 3500 < last_words.stat().st_size <= 4096
    assert json.loads(last_words.read_text())["message"].startswith("shard 7: ")


def test_where_no_last_words_can_be_left_the_exit_status_still_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WENXIN_TERMINATION_LOG", str(tmp_path / "no" / "such" / "directory"))

    def fail() -> None:
        raise ConfigError("--port")

    assert exit_status(fail) == 2


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "wenxin_runtime", "--version"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout == f"wenxin-runtime {__version__}\n"


def test_a_config_survives_the_way_to_the_engine() -> None:
    before = RuntimeConfig(model_dir="/m", served_model_name=("文心", "b"), max_model_len=7, gpu_memory_utilization=0.5)
    assert config.from_json(config.to_json(before)) == before


def test_config_parses_the_flags_it_adds() -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    args = parser.parse_args(["m", "--max-model-len", "9", "--gpu-memory-utilization", "0.25", "--log-level", "debug"])
    found = config.from_args(args)
    assert (found.max_model_len, found.gpu_memory_utilization, found.log_level) == (9, 0.25, "debug")
