"""What the bytes on disk hash to, and the files of checksums that say what they should."""

import asyncio
import contextlib
import hashlib
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from wenxin_runtime.download.listing import Digest, RemoteFile
from wenxin_runtime.download.threads import finished
from wenxin_runtime.errors import ConfigError, InvalidListing

SUMS = "SHA256SUMS"
_READ = 8 * 2**20
_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?:\./)?(?P<name>\S.*)")


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


async def digest_of(path: Path, algorithm: str) -> str:
    """Hash a file; a reader in a thread lets the transfers go on, and a cancellation wait for one read at most.

    Raises:
        OSError: it cannot be read.
    """
    with contextlib.closing(await asyncio.to_thread(path.open, "rb", buffering=0)) as file:
        hashing = _begun(algorithm, os.fstat(file.fileno()).st_size)

        def step() -> int:
            piece = file.read(_READ)
            hashing.update(piece)
            return len(piece)

        while await finished(step):
            pass
    return hashing.hexdigest()


def _begun(algorithm: str, size: int) -> _Hash:
    if algorithm == "crc32":
        return _Crc32()
    if algorithm == "git-sha1":  # a blob's id: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        hashing = hashlib.sha1(usedforsecurity=False)
        hashing.update(f"blob {size}\0".encode())
        return hashing
    return hashlib.new(algorithm, usedforsecurity=algorithm == "sha256")


class _NoSums(ValueError):
    """A line that is none of sha256sum's."""


def _parsed(text: str) -> dict[str, Digest]:
    found: dict[str, Digest] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _NoSums(f"line {number}: not as `sha256sum FILE...` writes it (64 digits, a name)")
        name, digest = match["name"], Digest("sha256", match["digest"].lower())
        if found.setdefault(name, digest) != digest:
            raise _NoSums(f"line {number}: another digest of {name} stands further up")
    return found


def sums_of(body: bytes, source: str) -> dict[str, Digest]:
    """Read the SHA256SUMS of a source; empty lines and comments (#) are skipped.

    Raises:
        InvalidListing: a line is something else; names it.
    """
    try:
        return _parsed(body.decode("utf-8-sig", "replace"))
    except _NoSums as error:
        raise InvalidListing(f"{source}/{SUMS}, {error}") from error


def read_sums(path: str) -> dict[str, Digest]:
    """Read the file of --checksums.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        return _parsed(Path(path).read_text(encoding="utf-8-sig"))
    except _NoSums as error:
        raise ConfigError(f"--checksums {path}, {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--checksums {path} cannot be read: {error}") from error


def with_sums(files: tuple[RemoteFile, ...], sums: Mapping[str, Digest], where: str) -> tuple[RemoteFile, ...]:
    """Hold each of `files` to its line in `sums`.

    Raises:
        ConfigError: one has no line.
    """
    missing = [file.name for file in files if file.name not in sums]
    if missing:
        raise ConfigError(f"{where} has no line for {', '.join(missing[:3])}: add what `sha256sum` says of it")
    return tuple(replace(file, digest=sums[file.name]) for file in files)
