"""The partial download on disk: DIRECTORY.partial, what is known of it, and the rename that makes it DIRECTORY.

    DIRECTORY.partial/model.safetensors                             sparse, of its full size from the start
    DIRECTORY.partial/.wenxin-download/plan.json                    source, revision, files
    DIRECTORY.partial/.wenxin-download/model.safetensors.chunks     "FIRST END" for each span that is on the disk, and
                                                                    "verified" after all

A span is noted after its bytes have been synced, so a line is true also after a crash of the machine; a line that was
torn in the middle names fewer bytes than there are, or none. In DIRECTORY the plan remains, which is how a complete one
is recognised.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

import msgspec

from wenxin_runtime.download.ledger import Span
from wenxin_runtime.download.listing import RemoteFile, is_commit
from wenxin_runtime.errors import ConfigError, NotEnoughSpace

NOTES = ".wenxin-download"
_SPAN = re.compile(rb"(\d{1,15}) (\d{1,15})")
_VERIFIED = b"verified"
_BLOCK = 512  # the unit of st_blocks, whatever the file system's own


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is being fetched, or has been.

    Attributes:
        source: SOURCE as given.
        requested: --revision as given.
        revision: What that was when the download began.
    """

    source: str
    requested: str | None
    revision: str
    files: tuple[RemoteFile, ...]


class Folder:
    """DIRECTORY and DIRECTORY.partial."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.partial = directory.with_name(directory.name + ".partial")
        self.lock = directory.with_name(directory.name + ".lock")

    def complete(self, source: str, requested: str | None) -> Plan | None:
        """Return the plan of a DIRECTORY that holds all of `source`, by the sizes of its files; None if there is none.

        Raises:
            ConfigError: DIRECTORY holds something else.
        """
        if not self.directory.exists() or (self.directory.is_dir() and not any(self.directory.iterdir())):
            return None
        plan = _read_plan(self.directory)
        remedy = "give another DIRECTORY, or remove it"
        asked = f"{source} at {requested}" if requested else source
        if plan is None:
            raise ConfigError(f"DIRECTORY {self.directory} exists and was not made by `download`: {remedy}")
        if (plan.source, plan.requested) != (source, requested):
            raise ConfigError(f"DIRECTORY {self.directory} holds {_spelled(plan)}, not {asked}: {remedy}")
        for file in plan.files:
            if _size(self.directory / file.name) != file.size:
                raise ConfigError(f"DIRECTORY {self.directory} is damaged: {file.name} is not whole; remove it")
        return plan

    def begun(self, source: str, requested: str | None) -> Plan | None:
        """Return the plan of an earlier run of the same download."""
        plan = _read_plan(self.partial)
        return plan if plan and (plan.source, plan.requested) == (source, requested) else None

    def adopt(self, plan: Plan) -> None:
        """Make DIRECTORY.partial one of `plan`: keep what is of use of it, and remove the rest.

        Raises:
            OSError: it cannot be written to.
        """
        old = _read_plan(self.partial)
        useful = _useful(old, plan) if old else {}
        (self.partial / NOTES).mkdir(parents=True, exist_ok=True)
        for path in self.partial.iterdir():
            if path.name != NOTES and path.name not in useful:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in (self.partial / NOTES).glob("*.chunks"):
            still_verified = useful.get(path.name.removesuffix(".chunks"))
            if still_verified is None:
                path.unlink()
            elif not still_verified:
                path.write_bytes(path.read_bytes().replace(_VERIFIED, b""))
        _write_whole(self.partial / NOTES / "plan.json", msgspec.json.encode(plan))

    def open(self, file: RemoteFile) -> "PartialFile":
        """Open one file, made at its full size if it is not there.

        Raises:
            OSError: it cannot be written to.
        """
        return PartialFile(self.partial / file.name, self.partial / NOTES / f"{file.name}.chunks", file.size)

    def refuse_too_little_space(self, missing: int, total: int) -> None:
        """Compare what is still to come with what the volume has left for this user.

        Raises:
            NotEnoughSpace: says both.
        """
        volume = os.statvfs(self.partial)
        free = volume.f_bavail * volume.f_frsize
        if missing > free:
            raise NotEnoughSpace(
                f"{self.directory} needs {gigabytes(missing)} more of {gigabytes(total)}, and its volume has "
                f"{gigabytes(free)} free: enlarge it by at least {gigabytes(missing - free)}"
            )

    def publish(self) -> None:
        """Make DIRECTORY.partial DIRECTORY, for good.

        Raises:
            OSError: DIRECTORY has come up in the meantime, or the volume fails.
        """
        _sync(self.partial)
        self.partial.rename(self.directory)  # replaces an empty directory too
        _sync(self.directory.parent)
        for path in (self.directory / NOTES).glob("*.chunks"):
            with contextlib.suppress(OSError):
                path.unlink()


class PartialFile:
    """One file that comes in, and the note of which spans of it are there. The calls block.

    Attributes:
        spans: What was there when it was opened.
        unallocated: Bytes that it will still take from the volume. Less than what is not there: a kill leaves blocks
            that were written and not noted, and they are written again where they lie.
    """

    def __init__(self, path: Path, notes: Path, size: int) -> None:
        """Open both; notes of a file that is gone, or is another, count for nothing."""
        self.path = path
        self.size = size
        if _size(path) != size:
            notes.unlink(missing_ok=True)
        self._data = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._data, size)
        self._notes = os.open(notes, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        self.spans, self.verified = _parsed(notes.read_bytes(), size)
        self.unallocated = max(0, size - os.fstat(self._data).st_blocks * _BLOCK)
        os.write(self._notes, b"\n")  # ends a line that was torn

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data`."""
        while data:
            written = os.pwrite(self._data, data, offset)
            data, offset = data[written:], offset + written

    def note(self, span: Span) -> None:
        """Note that the bytes of `span` are there, once they are on the disk."""
        os.fdatasync(self._data)
        os.write(self._notes, b"%d %d\n" % span)

    def note_verified(self) -> None:
        """Note that the whole file is what it should be."""
        os.fsync(self._data)
        os.write(self._notes, _VERIFIED + b"\n")
        self.verified = True

    def forget(self) -> None:
        """Note that nothing is there."""
        os.ftruncate(self._notes, 0)
        self.verified = False

    def close(self) -> None:
        """Close both files."""
        os.close(self._data)
        os.close(self._notes)


def gigabytes(count: int) -> str:
    """Spell a number of bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 50e6 else f"{count / 1e6:.1f} MB"


def _useful(old: Plan, new: Plan) -> dict[str, bool]:
    """Say which files of `new` are worth keeping, and whether they were verified against the same digest."""
    before, useful = {file.name: file for file in old.files}, {}
    for file in new.files:
        known = before.get(file.name)
        if known is None or known.size != file.size:
            continue
        same_place = old.source == new.source
        # Without a commit, nothing says that a file of which neither digest nor ETag is known is still the same.
        same_commit = same_place and old.revision == new.revision and is_commit(new.revision)
        if file.is_same(known) and (file.digest is not None or same_place):
            useful[file.name] = True
        elif same_commit:
            useful[file.name] = False
    return useful


def _parsed(notes: bytes, size: int) -> tuple[list[Span], bool]:
    lines = notes.split(b"\n")[:-1]  # what follows the last newline is no whole line
    spans = [(int(found[1]), int(found[2])) for line in lines if (found := _SPAN.fullmatch(line))]
    return [(start, end) for start, end in spans if start < end <= size], _VERIFIED in lines


def _read_plan(directory: Path) -> Plan | None:
    try:
        return msgspec.json.decode((directory / NOTES / "plan.json").read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError):
        return None


def _spelled(plan: Plan) -> str:
    return f"{plan.source} at {plan.requested or plan.revision}"


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file so that a crash leaves the old one or the new one."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
