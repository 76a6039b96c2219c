"""A file is closed only when no thread uses it any more."""

import asyncio
import threading
from pathlib import Path

import pytest

from tests.wenxin_runtime.download import faces
from tests.wenxin_runtime.download.conftest import fetched
from tests.wenxin_runtime.download.remote import running
from wenxin_runtime.download.folder import PartialFile
from wenxin_runtime.download.threads import finished


async def test_a_cancellation_waits_for_the_thread() -> None:
    begun, released = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        released.wait(30)

    work = asyncio.create_task(finished(block))
    await asyncio.to_thread(begun.wait, 30)
    for _ in range(3):  # however often it is asked
        work.cancel()
        await asyncio.wait({work}, timeout=0.01)
        assert not work.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_a_call_that_fails_after_it_was_cancelled_bothers_nobody() -> None:
    begun, released = threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        released.wait(30)
        raise OSError("no space")

    work = asyncio.create_task(finished(fail))
    await asyncio.to_thread(begun.wait, 30)
    work.cancel()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_what_the_call_returns_or_raises_is_what_comes() -> None:
    assert await finished(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await finished(divmod, 7, 0)


async def test_a_download_that_is_stopped_closes_its_files_after_the_last_write(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released, closed = threading.Event(), threading.Event(), threading.Event()
    note, close = PartialFile.note, PartialFile.close

    def slow(stored: PartialFile, span: tuple[int, int]) -> None:
        begun.set()
        released.wait(30)
        note(stored, span)

    def watched(stored: PartialFile) -> None:
        closed.set()
        close(stored)

    monkeypatch.setattr(PartialFile, "note", slow)
    monkeypatch.setattr(PartialFile, "close", watched)
    async with running(faces.hub({faces.COMMIT: files})) as hub:
        work = asyncio.create_task(fetched(f"hf://{faces.REPOSITORY}", target, mirror=hub.url))
        await asyncio.to_thread(begun.wait, 30)
        work.cancel()
        await asyncio.wait({work}, timeout=0.05)
        assert not closed.is_set()
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert closed.is_set()
