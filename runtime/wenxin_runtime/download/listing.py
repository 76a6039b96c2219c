"""What a source yields: the files of a checkpoint, frozen, with what is known of each before it is fetched."""

from typing import Protocol

import httpx
import msgspec

from wenxin_runtime.download.http import Access, Http


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
