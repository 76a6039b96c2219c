"""One download from beginning to end."""

import asyncio
import errno
import logging
import os
import signal
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from wenxin_runtime import weights
from wenxin_runtime.download import lock, selection
from wenxin_runtime.download.digests import read_sums, with_sums
from wenxin_runtime.download.fetch import Fetch
from wenxin_runtime.download.folder import Folder, Plan, gigabytes
from wenxin_runtime.download.http import Http, http_for
from wenxin_runtime.download.listing import Listing, Source
from wenxin_runtime.download.options import DownloadOptions
from wenxin_runtime.download.progress import Progress, served, tell
from wenxin_runtime.download.retrying import Patience, SourceChanged
from wenxin_runtime.download.sources import source_of
from wenxin_runtime.errors import ConfigError, DownloadFailed, DownloadInterrupted, NotEnoughSpace, SourceNotFound
from wenxin_runtime.telemetry import set_up_logging

_LISTINGS = 3
_HEADER_LENGTH = 8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

logger = logging.getLogger(__name__)

T = TypeVar("T")


def download(options: DownloadOptions) -> dict[str, object]:
    """Fetch what `options` name; return what `wenxin-runtime inspect` says of it, and `revision`.

    Raises:
        DownloadError: it could not be fetched.
        CheckpointError: it is no checkpoint that this runtime serves.
        ConfigError: a flag, a variable or DIRECTORY makes no sense.
    """
    set_up_logging(options.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs, and a CDN's hold signatures
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signalled(Session(options, os.environ)))


class Session:
    """One run of the command."""

    def __init__(self, options: DownloadOptions, environment: Mapping[str, str]) -> None:
        """Find out whom to ask; nothing is asked before `run`."""
        self.progress = Progress()
        self._options = options
        self._source = source_of(options, environment)
        self._folder = Folder(options.directory)
        self._patience = Patience(options.attempts, options.retry_delay)

    async def run(self) -> dict[str, object]:
        """Fetch, unless it is there already, and describe; see `download`."""
        options = self._options
        async with served(self.progress, options.host, options.port):
            telling = asyncio.create_task(tell(self.progress))
            try:
                plan = self._complete() or await self._locked()
                self.progress.phase = "inspecting"
                facts = await asyncio.to_thread(weights.inspect, options.directory)
                return {**msgspec.to_builtins(facts), "revision": plan.revision}
            except OSError as error:
                raise _explained(error, options.directory) from error
            finally:
                telling.cancel()

    def _complete(self) -> Plan | None:
        plan = self._folder.complete(self._options.source, self._options.revision)
        if plan is not None:
            logger.info("%s is complete: %s, revision %s", self._options.directory, plan.source, plan.revision)
        return plan

    async def _locked(self) -> Plan:
        self._options.directory.parent.mkdir(parents=True, exist_ok=True)
        async with lock.held(self._folder.lock) as held:
            # Another may have been faster.
            plan = self._complete()
            return plan if plan is not None else await unless(self._fetched(), held.keep())

    async def _fetched(self) -> Plan:
        options = self._options
        async with http_for(
            self._source,
            self._patience,
            connections=options.connections,
            stall_seconds=options.stall_timeout,
            allow_http_redirects=options.allow_http_redirects,
        ) as http:
            for remaining in reversed(range(_LISTINGS)):
                listing = await self._listed(http)
                plan = Plan(
                    source=options.source, requested=options.revision, revision=listing.revision, files=listing.files
                )
                self._folder.adopt(plan)
                try:
                    await self._filled(http, listing)
                except SourceChanged as change:
                    logger.warning("%s: listing again", change)
                    if not remaining:
                        raise DownloadFailed(f"{change}, again and again: wait until it is at rest") from change
                else:
                    break
        self._folder.publish()
        logger.info("%s is complete", options.directory)
        return plan

    async def _listed(self, http: Http) -> Listing:
        begun = self._folder.begun(self._options.source, self._options.revision)
        pinned = begun.revision if begun else None
        logger.info("listing %s%s", self._source.name, f" at {pinned}" if pinned else "")
        listing = await _listing(self._source, http, pinned)
        selection.refuse_sizes(listing.files, self._source.name)
        if self._options.checksums is not None:
            sums = read_sums(self._options.checksums)
            files = with_sums(listing.files, sums, f"--checksums {self._options.checksums}")
            listing = msgspec.structs.replace(listing, files=files)
        return listing

    async def _filled(self, http: Http, listing: Listing) -> None:
        options = self._options
        fetch = Fetch(
            http, self._folder, listing, self._patience, self.progress, options.connections, options.chunk_bytes
        )
        try:
            fetch.open()
            logger.info(
                "revision %s: %d files, %s, of which %s are there",
                *(listing.revision, len(listing.files), gigabytes(listing.bytes)),
                gigabytes(listing.bytes - fetch.missing),
            )
            self.progress.phase = "downloading"
            small = [file for file in listing.files if not file.is_weights]
            large = [file for file in listing.files if file.is_weights]
            await fetch.complete(small)
            await fetch.begin(large)
            await asyncio.to_thread(self._screen, [file.name for file in large])
            await fetch.complete(large)
        finally:
            fetch.close()

    def _screen(self, names: list[str]) -> None:
        """Judge the checkpoint by its configuration and its headers, before hundreds of gigabytes are fetched.

        Raises:
            CheckpointError: it is none that this runtime serves.
        """
        partial = self._folder.partial
        if all(_header_bytes(partial / name) <= self._options.chunk_bytes for name in names):
            weights.open_checkpoint(partial)
        else:
            weights.read_model_config(partial)


async def unless(work: Awaitable[T], *watchers: Awaitable[None]) -> T:
    """Return what `work` returns, or raise what a watcher raises first; the others are cancelled."""
    working = asyncio.ensure_future(work)
    watching = [asyncio.ensure_future(watcher) for watcher in watchers]
    try:
        done, _ = await asyncio.wait([working, *watching], return_when=asyncio.FIRST_COMPLETED)
        for watcher in watching:
            if watcher in done:
                watcher.result()
        return await working
    finally:
        for task in (working, *watching):
            task.cancel()
        await asyncio.gather(working, *watching, return_exceptions=True)


async def _until_signalled(session: Session) -> dict[str, object]:
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)

    async def stopped() -> None:
        await asked.wait()
        raise DownloadInterrupted(
            "stopped by a signal: what has arrived is kept, and the same command goes on from there"
        )

    return await unless(session.run(), stopped())


async def _listing(source: Source, http: Http, pinned: str | None) -> Listing:
    """List at the revision that an earlier run has resolved, as long as the source still knows it."""
    try:
        return await source.listing(http, pinned)
    except SourceNotFound:
        if pinned is None:
            raise
        logger.warning("%s has no revision %s any more: resolving it anew", source.name, pinned)
        return await source.listing(http, None)


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return _HEADER_LENGTH + int.from_bytes(file.read(_HEADER_LENGTH), "little")


def _explained(error: OSError, directory: Path) -> NotEnoughSpace | ConfigError | DownloadFailed:
    if error.errno in _FULL:
        return NotEnoughSpace(f"the volume of {directory} is full: enlarge it ({error})")
    if error.errno in _FORBIDDEN:
        return ConfigError(f"DIRECTORY {directory} cannot be written: {error}; check the path and its owner (fsGroup)")
    return DownloadFailed(f"{directory}: {error}; what has arrived is kept")
