"""s3://BUCKET/PREFIX: S3 and what speaks like it (MinIO, OSS, OBS, Ceph).

ListObjectsV2 names what lies right below PREFIX/; HEAD of each tells the checksum that was stored with it, if one of
the whole object was (x-amz-checksum-sha256, -sha1 or -crc32); a file SHA256SUMS beside them says more. Without
credentials requests are anonymous.
"""

import asyncio
import base64
import binascii
from datetime import UTC, datetime
from urllib.parse import quote, quote_plus

import httpx

from wenxin_runtime.download.bucket import Entry, Page, error_code, parse_page
from wenxin_runtime.download.digests import SUMS, sums_of
from wenxin_runtime.download.http import Answer, Http
from wenxin_runtime.download.listing import Digest, Listing, RemoteFile, fingerprint
from wenxin_runtime.download.selection import is_wanted, refuse_incomplete, refuse_too_many, refuse_unsafe
from wenxin_runtime.download.sigv4 import Keys, signed
from wenxin_runtime.errors import DownloadError, DownloadFailed, InvalidListing, SourceNotFound, Unauthorized

_AT_ONCE = 8
_MOST_PAGES = 1000
_CHECKSUMS = (("sha256", 32), ("sha1", 20), ("crc32", 4))  # algorithm, bytes


class Bucket:
    """One folder of a bucket."""

    def __init__(self, bucket: str, prefix: str, base: httpx.URL, region: str, keys: Keys | None) -> None:
        """See `listing.Source`; `base` is the bucket's own URL, in path or virtual-host style."""
        self.name = f"s3://{bucket}/{prefix}".rstrip("/")
        self.origin = base
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._region = region
        self._keys = keys

    async def listing(self, http: Http, pinned: str | None) -> Listing:
        """See `listing.Source`. The revision is a hash of the listing, so `pinned` is of no use."""
        del pinned
        entries = {entry.key.removeprefix(self._prefix): entry for entry in await self._entries(http)}
        refuse_unsafe(list(entries), self.name)
        refuse_incomplete(list(entries), self.name)
        wanted = [name for name in entries if is_wanted(name)]
        sums = await self._sums(http) if SUMS in entries else {}
        limit = asyncio.Semaphore(_AT_ONCE)
        files = await asyncio.gather(*(self._file(http, name, entries[name], sums.get(name), limit) for name in wanted))
        return Listing(revision=fingerprint(files), files=tuple(files), urls={name: self._url(name) for name in wanted})

    def credentials(self, method: str, url: httpx.URL, headers: httpx.Headers) -> dict[str, str]:
        """Sign what S3 reads of a request: its own headers and Range."""
        if self._keys is None:
            return {}
        ours = {name: value for name, value in headers.items() if name.startswith("x-amz-") or name == "range"}
        return signed(method, url, ours, self._keys, region=self._region, now=datetime.now(UTC))

    def refusal(self, answer: Answer) -> DownloadError | None:
        """Read the XML of an error, and where it is about regions and styles, say which flag or variable to set."""
        code, message = error_code(answer.body)
        region = answer.headers.get("x-amz-bucket-region", "")
        if answer.status in (301, 400) and region and region != self._region:
            return DownloadFailed(f"{self.name} lies in region {region}: set AWS_REGION={region}")
        if code == "SecondLevelDomainForbidden":
            return DownloadFailed(
                f"{self.origin.host} wants the bucket in the host's name: use --s3-addressing virtual"
            )
        if code == "RequestTimeTooSkewed":
            return DownloadFailed(f"{self.name}: the clocks of this machine and of the store differ ({message})")
        if code in ("NoSuchBucket", "NoSuchKey") or answer.status == 404:
            return SourceNotFound(f"{self.name} does not exist at {self.origin.host} ({code or 404}): check SOURCE")
        if answer.status in (401, 403):
            who = f"the key {self._keys.access_key_id}" if self._keys else "anonymous (no AWS_ACCESS_KEY_ID is set)"
            return Unauthorized(
                f"{self.name} may not be read by {who} ({code or answer.status}): "
                "it needs s3:ListBucket on the bucket and s3:GetObject on the prefix"
            )
        return None

    async def _entries(self, http: Http) -> list[Entry]:
        query = {"list-type": "2", "prefix": self._prefix, "delimiter": "/", "encoding-type": "url"}
        entries: list[Entry] = []
        for _ in range(_MOST_PAGES):
            page = await self._page(http, query)
            entries += [
                entry for entry in page.entries if entry.key.startswith(self._prefix) and entry.key != self._prefix
            ]
            refuse_too_many(entries, self.name)
            if page.next_token is None:
                return entries
            query["continuation-token"] = page.next_token
        raise InvalidListing(f"{self.name}: its listing has no end")

    async def _page(self, http: Http, query: dict[str, str]) -> Page:
        text = "&".join(f"{name}={quote_plus(value, safe='')}" for name, value in sorted(query.items()))
        text = text.replace("+", "%20")
        body, _ = await http.read(self.origin.copy_with(raw_path=self.origin.raw_path + b"?" + text.encode()))
        return parse_page(body, self.name)

    async def _sums(self, http: Http) -> dict[str, Digest]:
        body, _ = await http.read(self._url(SUMS))
        return sums_of(body, self.name)

    async def _file(
        self, http: Http, name: str, entry: Entry, known: Digest | None, limit: asyncio.Semaphore
    ) -> RemoteFile:
        if known is None:
            async with limit:
                known = _stored_checksum(await http.head(self._url(name), {"x-amz-checksum-mode": "ENABLED"}))
        return RemoteFile(name=name, size=entry.size, digest=known, validator=entry.etag)

    def _url(self, name: str) -> httpx.URL:
        key = quote(self._prefix + name, safe="/-._~")
        return self.origin.copy_with(raw_path=self.origin.raw_path.rstrip(b"/") + b"/" + key.encode())


def _stored_checksum(headers: httpx.Headers) -> Digest | None:
    """Find a checksum of the whole object: one of a multipart upload may be over its parts, told by its length."""
    for algorithm, length in _CHECKSUMS:
        try:
            value = base64.b64decode(headers.get(f"x-amz-checksum-{algorithm}", ""), validate=True)
        except (binascii.Error, ValueError):
            continue
        if len(value) == length:
            return Digest(algorithm, value.hex())
    return None
