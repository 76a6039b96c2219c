"""The pool that fills a folder from a listing: ranges of all files over a bounded number of connections.

It trusts nobody: an answer must be for the bytes that were asked, of a file as long as was listed, neither shorter nor
longer; and what is on disk at the end must hash to what it should. It knows no protocol but HTTP's own.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

import httpx

from wenxin_runtime.download.digests import digest_of
from wenxin_runtime.download.folder import Folder, PartialFile
from wenxin_runtime.download.http import Http, NoSuchRange
from wenxin_runtime.download.ledger import Ledger, length
from wenxin_runtime.download.listing import Listing, RemoteFile
from wenxin_runtime.download.progress import Progress
from wenxin_runtime.download.retrying import Patience, SourceChanged, Transient
from wenxin_runtime.download.threads import finished
from wenxin_runtime.errors import ChecksumMismatch, ConfigError

_WRITE_BYTES = 2**20
# Less than this before a drop is no progress: a server that gives a byte and hangs up is given up, too.
_WORTHWHILE_BYTES = 2**14
_TRIES_OF_A_FILE = 3
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Task:
    """One file on its way.

    Attributes:
        whole: Somebody streams all of it, because the server knows no ranges; nobody else need try.
        checking: Somebody hashes it.
        rejected: How often it was not what it should be.
    """

    file: RemoteFile
    url: httpx.URL
    stored: PartialFile
    ledger: Ledger
    whole: bool = False
    checking: bool = False
    rejected: int = 0


@dataclass(slots=True, eq=False)
class _Cursor:
    """Where one connection writes; all bytes from the beginning of its chunk up to `at` are written."""

    ledger: Ledger
    at: int

    @property
    def pending(self) -> int:
        """Bytes before `at` that the ledger does not count yet."""
        index = self.ledger.index_of(self.at)
        return 0 if self.ledger.holds(index) else self.at - self.ledger.span(index)[0]


@dataclass(slots=True)
class Fetch:
    """Fetches the files of one listing into one folder.

    Attributes:
        missing: Bytes that were still to come when the files were opened.
    """

    http: Http
    folder: Folder
    listing: Listing
    patience: Patience
    progress: Progress
    connections: int
    chunk_bytes: int
    missing: int = 0
    _tasks: dict[str, _Task] = field(default_factory=dict)
    _cursors: set[_Cursor] = field(default_factory=set)

    def open(self) -> None:
        """Open the files, find out what of them is there from an earlier run, and whether the rest will fit.

        Raises:
            NotEnoughSpace: it will not.
            OSError: one cannot be written.
        """
        opened = [(file, self.folder.open(file)) for file in self.listing.files]
        self.missing = self.listing.bytes - sum(length(stored.spans) for _, stored in opened)
        needed = min(self.missing, sum(stored.unallocated for _, stored in opened))
        self.folder.refuse_too_little_space(needed, self.listing.bytes)
        for file, stored in opened:
            ledger = Ledger(file.size, self.chunk_bytes, stored.spans)
            self._tasks[file.name] = _Task(file, self.listing.urls[file.name], stored, ledger)
        self.progress.total, self.progress.files_total = self.listing.bytes, len(self.listing.files)
        self.progress.done, self.progress.files = self._done, self._verified

    def close(self) -> None:
        """Close the files."""
        for task in self._tasks.values():
            task.stored.close()

    async def complete(self, files: Sequence[RemoteFile]) -> None:
        """Fetch and verify all of `files`.

        Raises:
            DownloadError: it cannot be done.
            SourceChanged: one is not what was listed any more.
            OSError: the volume is full, or fails.
        """
        tasks = [self._tasks[file.name] for file in files]
        await self._together([self._work(tasks) for _ in range(self.connections)])

    async def begin(self, files: Sequence[RemoteFile]) -> None:
        """Fetch the first chunk of each of `files`, where their headers lie.

        Raises:
            DownloadError, SourceChanged, OSError: see `complete`.
        """
        waiting = [task for file in files if (task := self._tasks[file.name]).ledger.first_open == 0]

        async def work() -> None:
            while waiting:
                task = waiting.pop(0)
                index = task.ledger.claim()
                if index is not None:
                    await self._chunk(task, index, only_this=True)

        await self._together([work() for _ in range(self.connections)])

    def _done(self) -> int:
        there = sum(task.ledger.bytes_there for task in self._tasks.values())
        return there + sum(cursor.pending for cursor in self._cursors)

    def _verified(self) -> int:
        return sum(task.stored.verified for task in self._tasks.values())

    async def _together(self, work: Sequence[Awaitable[None]]) -> None:
        """Run all; the first failure ends the others and is raised."""
        running = [asyncio.ensure_future(one) for one in work]
        try:
            await asyncio.gather(*running)
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _work(self, tasks: Sequence[_Task]) -> None:
        while (task := self._next(tasks)) is not None:
            if task.ledger.complete:
                await self._check(task)
            elif (index := task.ledger.claim()) is not None:
                await self._chunk(task, index)

    def _next(self, tasks: Sequence[_Task]) -> _Task | None:
        for task in tasks:
            if task.ledger.complete:
                if not task.stored.verified and not task.checking:
                    return task
            elif task.ledger.first_open is not None and not task.whole:
                return task
        return None

    async def _check(self, task: _Task) -> None:
        """Verify a file that is all there; if it is not what it should be, it is to be fetched again."""
        task.checking = True
        try:
            wanted = task.file.digest
            found = await digest_of(task.stored.path, wanted.algorithm) if wanted else ""
            if wanted is None or found == wanted.hexadecimal:
                await finished(task.stored.note_verified)
                return
            task.rejected += 1
            what = f"{task.file.name} has {wanted.algorithm} {found} and should have {wanted.hexadecimal}"
            task.stored.forget()
            task.ledger.reset()
            if task.rejected >= _TRIES_OF_A_FILE:
                raise ChecksumMismatch(
                    f"{what}, fetched {task.rejected} times from {task.url.host}: it was changed on the way or at the "
                    "source; use another mirror, or correct --checksums"
                )
            logger.warning("%s: fetching it again", what)
        finally:
            task.checking = False

    async def _chunk(self, task: _Task, index: int, *, only_this: bool = False) -> None:
        """Fetch a claimed chunk, however often it takes."""
        start, end = task.ledger.span(index)
        cursor = _Cursor(task.ledger, start)
        self._cursors.add(cursor)
        failures = 0
        try:
            while cursor.at < end and not task.ledger.holds(index):
                before = cursor.at
                try:
                    if not await self._request(task, cursor, end, only_this=only_this):
                        return
                except NoSuchRange as short:
                    raise SourceChanged(f"{task.file.name} is shorter than it was listed") from short
                except Transient as failure:
                    failures = 1 if cursor.at - before >= _WORTHWHILE_BYTES else failures + 1
                    await self.patience.wait(failures, failure)
        finally:
            self._cursors.discard(cursor)
            task.ledger.release(index)

    async def _request(self, task: _Task, cursor: _Cursor, end: int, *, only_this: bool) -> bool:
        """Ask for what `cursor` still lacks; False where somebody else streams the whole file."""
        in_one = cursor.at == 0 and end == task.file.size
        headers = {} if in_one else {"Range": f"bytes={cursor.at}-{end - 1}"}
        async with self.http.open(task.url, headers) as response:
            _refuse_another_file(task.file, response)
            if response.status_code == 206:
                _refuse_another_range(task.file, response, cursor.at, end)
                await self._pour(task, response, cursor, end)
                return True
            _refuse_another_length(task.file, response, task.file.size)
            if in_one:
                await self._pour(task, response, cursor, end)
                return True
            if only_this:
                await self._pour(task, response, cursor, end, surplus=True)
                return True
            return await self._from_the_beginning(task, response, cursor)

    async def _from_the_beginning(self, task: _Task, response: httpx.Response, cursor: _Cursor) -> bool:
        """Take a whole file from a server that knows no ranges; one connection does it for all."""
        if task.whole:
            return False
        logger.debug("%s: the server sends whole files only", task.file.name)
        task.whole = True
        try:
            cursor.at = 0
            await self._pour(task, response, cursor, task.file.size)
        finally:
            task.whole = False
        return True

    async def _pour(
        self, task: _Task, response: httpx.Response, cursor: _Cursor, end: int, *, surplus: bool = False
    ) -> None:
        """Write an answer's body from `cursor` to `end`, noting each chunk that it completes."""
        buffer = bytearray()
        try:
            async for piece in response.aiter_raw():
                buffer += piece
                self.progress.received += len(piece)
                if not surplus and cursor.at + len(buffer) > end:
                    raise Transient(f"{response.url.host} sends more of {task.file.name} than was asked")
                if len(buffer) >= min(_WRITE_BYTES, end - cursor.at):
                    await self._drain(task, cursor, buffer, end)
                if cursor.at == end:
                    return
        except httpx.TransportError:
            await self._drain(task, cursor, buffer, end)  # what came before the drop is not asked again
            raise
        await self._drain(task, cursor, buffer, end)
        if cursor.at < end:
            raise Transient(f"{response.url.host} sends less of {task.file.name} than was asked")

    async def _drain(self, task: _Task, cursor: _Cursor, buffer: bytearray, end: int) -> None:
        """Write `buffer`, up to `end`, chunk by chunk."""
        while buffer and cursor.at < end:
            rest = task.ledger.span(task.ledger.index_of(cursor.at))[1] - cursor.at
            await self._write(task, cursor, buffer, min(len(buffer), rest))

    async def _write(self, task: _Task, cursor: _Cursor, buffer: bytearray, count: int) -> None:
        index = task.ledger.index_of(cursor.at)
        span = task.ledger.span(index)
        if not task.ledger.holds(index):
            await finished(task.stored.write, memoryview(bytes(memoryview(buffer)[:count])), cursor.at)
            if cursor.at + count == span[1]:
                await finished(task.stored.note, span)
                task.ledger.finish(index)
        cursor.at += count
        del buffer[:count]


def _refuse_another_file(file: RemoteFile, response: httpx.Response) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ConfigError(f"{response.url.host} compresses {file.name} although asked not to: use another mirror")
    if file.digest is not None or file.validator is None:
        return
    header = "ETag" if file.validator.startswith('"') else "Last-Modified"
    if response.headers.get(header, file.validator) != file.validator:
        raise SourceChanged(f"{file.name} has changed at the source while it was fetched")


def _refuse_another_range(file: RemoteFile, response: httpx.Response, start: int, end: int) -> None:
    value = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(value)
    wanted = (str(start), str(end - 1))
    if found is None or (found[1], found[2]) != wanted or found[3] not in ("*", str(file.size)):
        raise Transient(f"{response.url.host} answers with {value!r} for bytes {start}-{end - 1} of {file.name}")
    _refuse_another_length(file, response, end - start)


def _refuse_another_length(file: RemoteFile, response: httpx.Response, wanted: int) -> None:
    length = response.headers.get("Content-Length", str(wanted))
    if length != str(wanted):
        raise Transient(f"{response.url.host} has {length} bytes of {file.name} and should have {wanted}")
