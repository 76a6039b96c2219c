"""One downloader at a time for a directory, also across machines that share the volume.

DIRECTORY.lock names its holder and a number that the holder counts up. Whoever finds one watches the number: if it
moves, the holder lives; if not for a while, by the watcher's own clock, the lock is taken over. This asks no more of a
file system than that a rename is atomic and an opened file is current, which NFS grants too (its flock depends on mount
options). A holder that finds another's name in its lock stops.
"""

import asyncio
import contextlib
import errno
import os
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from wenxin_runtime.errors import DownloadBusy

_BEAT_SECONDS = 2.0
_STALE_SECONDS = 15.0
# For another that took the same stale lock over at the same moment to be seen.
_SETTLE_SECONDS = 0.5
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the lock.

    Attributes:
        token: Unique to one attempt.
        started: When the process began, in the kernel's ticks: a number may be given to another process later.
    """

    token: str
    host: str
    process: int
    started: int
    beat: int = 0

    @property
    def is_surely_gone(self) -> bool:
        """Whether it was a process of this host that has ended."""
        return self.host == socket.gethostname() and self.started != _started(self.process)


class Lock:
    """DIRECTORY.lock, held."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path = path
        self._holder = holder

    async def keep(self) -> None:
        """Show that the holder lives, for as long as this runs.

        Raises:
            DownloadBusy: another process has taken the lock over.
        """
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            if not self._is_ours():
                raise DownloadBusy(f"another process has taken {self._path} over, for this one was silent for too long")
            self._holder = msgspec.structs.replace(self._holder, beat=self._holder.beat + 1)
            _write(self._path, self._holder)

    def release(self) -> None:
        """Remove it, if it is still ours."""
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.unlink()

    def _is_ours(self) -> bool:
        found = _read(self._path)
        return found is not None and found.token == self._holder.token


@contextlib.asynccontextmanager
async def held(path: Path) -> AsyncIterator[Lock]:
    """Hold the lock at `path`; takes `_STALE_SECONDS` where the last holder was killed on another host.

    Raises:
        DownloadBusy: somebody else holds it.
        OSError: it cannot be written.
    """
    process = os.getpid()
    holder = Holder(token=uuid.uuid4().hex, host=socket.gethostname(), process=process, started=_started(process) or 0)
    if not _created(path, holder):
        await _until_stale(path)
        _write(path, holder)
        await asyncio.sleep(_SETTLE_SECONDS)
    lock = Lock(path, holder)
    if (found := _read(path)) is None or found.token != holder.token:
        raise _busy(path, found)
    try:
        yield lock
    finally:
        lock.release()


async def _until_stale(path: Path) -> None:
    first = _read(path)
    if first is None or first.is_surely_gone:
        return
    for _ in range(int(_STALE_SECONDS / _BEAT_SECONDS * 2)):
        await asyncio.sleep(_BEAT_SECONDS / 2)
        now = _read(path)
        if now is None:
            return
        if now != first:
            raise _busy(path, now)


def _busy(path: Path, holder: Holder | None) -> DownloadBusy:
    who = f"process {holder.process} on {holder.host}" if holder else "another process"
    return DownloadBusy(f"{who} fetches into {path.with_suffix('')} already ({path}): wait until it has ended")


def _created(path: Path, holder: Holder) -> bool:
    """Make the lock with its content at once, unless there is one: a link is atomic where a write is not."""
    beside = path.with_name(f"{path.name}.{holder.token}")
    beside.write_bytes(msgspec.json.encode(holder))
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _created_empty(path, holder)
    else:
        return True
    finally:
        beside.unlink(missing_ok=True)


def _created_empty(path: Path, holder: Holder) -> bool:
    """The same where a file has one name only (SMB, FUSE); one that finds the lock empty and takes it over is seen."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    _write(path, holder)
    return True


def _write(path: Path, holder: Holder) -> None:
    beside = path.with_name(f"{path.name}.{holder.token}")
    beside.write_bytes(msgspec.json.encode(holder))
    beside.rename(path)


def _read(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def _started(process: int) -> int | None:
    """Read when a process began, field 22 of proc_pid_stat(5); None if there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
