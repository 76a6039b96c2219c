"""What a source yields: the files of a checkpoint, frozen, with what is known of each before it is fetched."""

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeVar

import httpx
import msgspec

from wenxin_runtime.download.http import Access, Http
from wenxin_runtime.errors import InvalidListing

T = TypeVar("T")

_FINGERPRINT = "sha256:"


class Digest(msgspec.Struct, frozen=True):
    """What a file must hash to. `algorithm`: sha256, sha1, crc32, or git-sha1 (a blob's id: over its length too)."""

    algorithm: str
    hexadecimal: str


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file.

    Attributes:
        name: Its name in the checkpoint's directory.
        size: Bytes.
        digest: What it must hash to, where the source or the user knows.
        validator: The ETag or date that an answer must repeat, where there is no digest.
    """

    name: str
    size: int
    digest: Digest | None = None
    validator: str | None = None

    def is_same(self, other: "RemoteFile") -> bool:
        """Say whether bytes of `other` are bytes of this one, as far as the two tell."""
        mine, its = (self.size, self.digest or self.validator), (other.size, other.digest or other.validator)
        return mine == its and mine[1] is not None

    @property
    def is_weights(self) -> bool:
        """Whether it holds tensors."""
        return self.name.endswith(".safetensors")


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint at one moment; fetching `urls[file.name]` yields what `files` say, or is noticed."""

    revision: str
    files: tuple[RemoteFile, ...]
    urls: dict[str, httpx.URL]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


class Source(Access, Protocol):
    """One place that checkpoints come from. The only thing that knows a protocol.

    Attributes:
        name: As the user named it.
    """

    name: str

    async def listing(self, http: Http, pinned: str | None) -> Listing:
        """Say what there is, at the revision `pinned` if an earlier run has resolved one.

        Raises:
            DownloadError: there is none, or it is refused, or it did not answer after all attempts.
        """
        ...


def fingerprint(files: Iterable[RemoteFile]) -> str:
    """Hash what a listing without revisions says, so that two listings can be told apart."""
    lines = sorted(f"{file.name}\0{file.size}\0{file.digest or file.validator}\n" for file in files)
    return _FINGERPRINT + hashlib.sha256("".join(lines).encode()).hexdigest()


def is_commit(revision: str) -> bool:
    """Say whether equal revisions mean equal bytes; those that `fingerprint` makes say no more than the listing did."""
    return not revision.startswith(_FINGERPRINT)


def decoded(body: bytes, kind: type[T], source: str) -> T:
    """Read the JSON that a source answers with.

    Raises:
        InvalidListing: it is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidListing(
            f"{source} answers with something that is no listing ({error}): check the mirror and the proxy"
        ) from error
