"""One downloader at a time, and a dead one keeps nobody out."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from wenxin_runtime.download import lock
from wenxin_runtime.download.lock import Holder, held
from wenxin_runtime.download.session import unless
from wenxin_runtime.errors import DownloadBusy


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_STALE_SECONDS", 0.5)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.02)


def of(host: str, path: Path, process: int = 1, started: int = 1) -> Holder:
    holder = Holder(token="theirs", host=host, process=process, started=started)
    path.write_bytes(msgspec.json.encode(holder))
    return holder


def nothing_in(folder: Path) -> bool:
    return not list(folder.iterdir())


def killed_while_holding(path: Path) -> int:
    code = (
        "import asyncio, os, signal, sys; from pathlib import Path; from wenxin_runtime.download.lock import held\n"
        "async def die():\n"
        "    async with held(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(die())"
    )
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode


async def test_a_second_downloader_is_kept_out_as_long_as_the_first_lives(tmp_path: Path) -> None:
    path = tmp_path / "tiny.lock"
    async with held(path) as mine:
        keeping = asyncio.create_task(mine.keep())
        with pytest.raises(DownloadBusy, match=r"process \d+ on .* fetches into .*/tiny already"):
            async with held(path):
                pass
        keeping.cancel()
    assert nothing_in(tmp_path)


async def test_a_volume_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "as on SMB")

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "tiny.lock"
    async with held(path) as mine:
        keeping = asyncio.create_task(mine.keep())
        with pytest.raises(DownloadBusy, match="already"):
            async with held(path):
                pass
        keeping.cancel()
    assert nothing_in(tmp_path)


async def test_a_volume_that_fails_is_not_taken_for_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="full"):
        async with held(tmp_path / "tiny.lock"):
            pass
    assert nothing_in(tmp_path)


async def test_a_holder_on_another_host_that_is_silent_has_lost_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.lock"
    of("another-pod", path)
    async with held(path):
        pass
    assert nothing_in(tmp_path)


async def test_a_process_of_this_host_that_was_killed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_STALE_SECONDS", 3600.0)
    path = tmp_path / "tiny.lock"
    assert killed_while_holding(path) == -signal.SIGKILL
    assert not nothing_in(tmp_path)
    async with held(path):
        pass


async def test_a_holder_that_was_thought_dead_stops_when_it_finds_out(tmp_path: Path) -> None:
    path = tmp_path / "tiny.lock"
    async with held(path) as mine:
        of("another-pod", path)
        with pytest.raises(DownloadBusy, match="silent for too long"):
            await asyncio.wait_for(mine.keep(), 20)
    assert msgspec.json.decode(path.read_bytes(), type=Holder).token == "theirs"


async def test_of_two_that_take_over_a_dead_ones_lock_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.lock"
    of("another-pod", path)
    refused, holders = asyncio.Event(), 0

    async def take() -> None:
        nonlocal holders
        try:
            async with held(path) as mine:
                holders += 1
                await unless(refused.wait(), mine.keep())
        except DownloadBusy:
            refused.set()

    async with asyncio.timeout(60):
        await asyncio.gather(take(), take())
    assert holders == 1


async def test_a_lock_that_is_released_while_one_watches_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "tiny.lock"
    of("another-pod", path)
    taking = asyncio.create_task(_taken(path))
    await asyncio.sleep(0)
    path.unlink()
    await taking


async def _taken(path: Path) -> None:
    async with held(path):
        pass


async def test_a_lock_that_is_no_lock_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "tiny.lock"
    path.write_bytes(b"")
    async with held(path):
        pass
