"""The command itself: killed, stopped, run twice, asked how far it is."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.wenxin_runtime.download import faces
from tests.wenxin_runtime.download.conftest import held_by, is_published
from tests.wenxin_runtime.download.faces import COMMIT, REPOSITORY
from tests.wenxin_runtime.download.remote import Remote, Request, failing, running
from tests.wenxin_runtime.server.processes import ServerProcess, until
from wenxin_runtime import fixture, weights
from wenxin_runtime.__main__ import main
from wenxin_runtime.errors import DownloadError

HUB = f"hf://{REPOSITORY}"
CHUNK = 2**14
Files = dict[str, bytes]


@contextlib.asynccontextmanager
async def command(target: Path, hub: Remote, *flags: str) -> AsyncIterator[ServerProcess]:
    """`wenxin-runtime download` in a process of its own; killed on leaving, if need be."""
    log = target.with_name("termination-log")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wenxin_runtime", "download", HUB, str(target), "--mirror", hub.url),
        *("--chunk-bytes", str(CHUNK), "--retry-delay", "0.01", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "WENXIN_TERMINATION_LOG": str(log), "HF_TOKEN": "hf_secret"},
    )
    try:
        yield ServerProcess(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def large(tmp_path: Path) -> Files:
    """One file of weights, of many more chunks than there are connections."""
    folder = fixture.write(tmp_path / "large")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def late(request: Request) -> bool:
    """Whether a request is for the second half of the weights."""
    return ".safetensors" in request.target and request.range is not None and request.range[0] > 40 * CHUNK


def received(hub: Remote) -> set[int]:
    return {request.range[0] for request in hub.asked(".safetensors") if request.range is not None}


def last_words(run: ServerProcess) -> dict[str, Any]:
    return json.loads(run.termination_log.read_text())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_after_a_signal_at_any_moment_the_same_command_fetches_only_what_was_in_flight(
    number: signal.Signals, large: Files, target: Path
) -> None:
    make_parent(target)
    async with running(faces.hub({COMMIT: large})) as hub:
        hub.hold = late
        async with command(target, hub, "--connections", "4") as run:
            await until(lambda: hub.held == 4)
            run.signal(number)
            assert await run.ended() == (10 if number == signal.SIGTERM else -9)
        assert not is_published(target)
        if number == signal.SIGTERM:
            assert last_words(run)["reason"] == "DownloadInterrupted"
        finished = len(received(hub)) - 4
        before, hub.sent, hub.requests, hub.hold = hub.sent, 0, [], None
        async with command(target, hub, "--connections", "4") as run:
            assert await run.ended() == 0
    assert held_by(target) == large
    assert len(received(hub)) == chunks(large) - finished
    assert hub.sent + before <= total(large) + 4 * CHUNK + 40_000
    assert last_words(run)["digest"] == weights.inspect(target).digest
    assert not leftovers(target)


def make_parent(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)


def chunks(files: Files) -> int:
    return -(-len(files["model.safetensors"]) // CHUNK)


def total(files: Files) -> int:
    return sum(map(len, files.values()))


def leftovers(target: Path) -> list[str]:
    known = {target.name, "termination-log"}
    return [path.name for path in target.parent.iterdir() if path.name not in known]


async def test_the_operator_is_told_how_far_it_is(large: Files, target: Path) -> None:
    make_parent(target)
    async with running(faces.hub({COMMIT: large})) as hub:
        hub.hold = late
        async with command(target, hub, "--port", "0", "--connections", "2") as run:
            url = (await run.line(r"listening on (http://\S+)"))[1]
            await until(lambda: hub.held == 2)
            async with httpx.AsyncClient() as client:
                load = (await client.get(f"{url}/load")).json()
                health = await client.get(f"{url}/health")
            hub.released.set()
            assert await run.ended() == 0
    assert load.keys() == {"phase", "done", "total", "files", "files_total", "bytes_per_second"}
    assert load["phase"] == "downloading"
    assert 40 * CHUNK <= load["done"] < load["total"] == total(large)
    assert load["files"] == load["files_total"] - 1 == len(large) - 1
    assert health.json()["status"] == "alive"


async def test_a_second_run_leaves_a_complete_directory_without_asking_anybody(files: Files, target: Path) -> None:
    make_parent(target)
    async with running(faces.hub({COMMIT: files})) as hub:
        async with command(target, hub) as run:
            assert await run.ended() == 0
        first = last_words(run)
        hub.requests = []
        async with command(target, hub) as again:
            assert await again.ended() == 0
        async with command(target, hub, "--revision", "v2") as other:
            assert await other.ended() == 2
    assert not hub.requests
    assert first["revision"] == COMMIT
    assert last_words(other)["reason"] == "InvalidFlags"
    assert f"is complete: {HUB}" in "".join(again.lines)


async def test_of_two_at_the_same_time_one_is_told_to_come_back(large: Files, target: Path) -> None:
    make_parent(target)
    async with running(faces.hub({COMMIT: large})) as hub:
        hub.hold = late
        async with command(target, hub) as first:
            await until(lambda: hub.held > 0)
            async with command(target, hub) as second:
                assert await second.ended() == 12
            hub.released.set()
            assert await first.ended() == 0
    assert "DownloadBusy" in "".join(second.lines)


async def test_no_token_and_no_signed_address_is_logged(files: Files, target: Path) -> None:
    make_parent(target)
    revisions = {COMMIT: files}
    async with running(faces.cdn(revisions)) as cdn, running(faces.hub(revisions, cdn=cdn.url)) as hub:
        cdn.mischief = failing("00001-of-00002", 503, times=3)
        async with command(target, hub, "--log-level", "debug") as run:
            assert await run.ended() == 0
    log = "".join(run.lines)
    assert "answers 503" in log
    assert "secret" not in log
    assert "secret" not in run.termination_log.read_text()


def ends(arguments: Sequence[str], log: Path) -> tuple[int, str]:
    code = main(["download", *arguments])
    return code, json.loads(log.read_text())["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hf://baidu", "x"], "hf://ORG/NAME"),
        (["hf://baidu/tiny@main", "x"], "goes into --revision"),
        (["baidu/tiny", "x"], "SOURCE must begin with"),
        (["ftp://host/x", "x"], "SOURCE must begin with"),
        (["https://user:pw@host/x", "x"], "no password"),
        (["https://host/x?sig=1", "x"], "no query"),
        (["https://[host/x", "x"], "no URL"),
        (["s3://B/x", "x"], "s3://BUCKET/PREFIX"),
        (["s3://bucket/x", "x", "--revision", "main"], "--revision is for"),
        (["https://host/x", "x", "--mirror", "https://other"], "--mirror is for"),
        (["hf://a/b", "x", "--mirror", "other"], "--mirror must be"),
        (["hf://a/b", "/"], "not its root"),
        (["hf://a/b", "x", "--connections", "0"], "--connections must be at least 1"),
        (["hf://a/b", "x", "--chunk-bytes", "10"], "--chunk-bytes must be at least 4096"),
        (["hf://a/b", "x", "--retry-delay", "nan"], "--retry-delay"),
        (["hf://a/b", "x", "--port", "70000"], "--port"),
        (["hf://a/b", "/dev/null/x"], "check the path"),
        (["hf://a/b", "/proc/x"], "/proc/x"),
    ],
)
def test_a_wrong_flag_says_what_is_wrong(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENXIN_TERMINATION_LOG", str(tmp_path / "log"))
    code, message = ends(arguments, tmp_path / "log")
    assert words in message
    assert code in (2, 11)


def test_half_of_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENXIN_TERMINATION_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    assert ends(["s3://bucket/x", str(tmp_path / "x")], tmp_path / "log")[0] == 2


def test_help_teaches_every_source_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["download", "--help"])
    text = capsys.readouterr().out
    words = ("hf://", "modelscope://", "https://", "s3://", "HF_TOKEN", "AWS_ENDPOINT_URL", "SSL_CERT_FILE", "--mirror")
    assert all(word in text for word in words)


def kinds(kind: type[DownloadError]) -> list[type[DownloadError]]:
    return [below for child in kind.__subclasses__() for below in (child, *kinds(child))]


def test_an_exit_code_says_whether_to_run_again_and_means_one_reason() -> None:
    codes: dict[int, str] = {}
    for kind in kinds(DownloadError):
        assert 10 <= kind.exit_code < 30
        assert codes.setdefault(kind.exit_code, kind.reason) == kind.reason
