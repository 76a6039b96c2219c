"""https://HOST/PATH/: a folder of plain files on any web server.

Which files there are is said, in this order, by
    SHA256SUMS                      as `sha256sum * > SHA256SUMS` writes it: names and digests
    model.safetensors.index.json    the shards; else model.safetensors
and, without SHA256SUMS, by asking for each of the small files of a checkpoint (`selection.SMALL`). Sizes and ETags come
from HEAD, or from a GET of one byte where a server knows no HEAD.
"""

import asyncio
import re
from urllib.parse import quote

import httpx
import msgspec
from msgspec.structs import replace

from wenxin_runtime.download.digests import SUMS, sums_of
from wenxin_runtime.download.http import Answer, Http, shown
from wenxin_runtime.download.listing import Digest, Listing, RemoteFile, decoded, fingerprint
from wenxin_runtime.download.selection import SMALL, is_wanted, refuse_incomplete, refuse_unsafe
from wenxin_runtime.errors import DownloadError, InvalidListing, SourceNotFound, Unauthorized
from wenxin_runtime.weights.safetensors import INDEX, SINGLE

_AT_ONCE = 8
_SIZE = re.compile(r"\d{1,15}", re.ASCII)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class Web:
    """One folder of a web server."""

    def __init__(self, url: str, token: str | None) -> None:
        """See `listing.Source`."""
        self.name = url
        self.origin = httpx.URL(url.rstrip("/") + "/")
        self._token = token

    async def listing(self, http: Http, pinned: str | None) -> Listing:
        """See `listing.Source`. The revision is a hash of the listing, so `pinned` is of no use."""
        del pinned
        sums = await _sums(http, self.origin.join(SUMS), self.name)
        names = sums or dict.fromkeys(await self._guessed(http))
        refuse_unsafe(list(names), self.name)
        wanted = [name for name in names if is_wanted(name)]
        urls = {name: self.origin.join(quote(name)) for name in wanted}
        limit = asyncio.Semaphore(_AT_ONCE)
        found = await asyncio.gather(*(_facts(http, name, urls[name], limit) for name in wanted))
        named = sums or set(wanted).difference((*SMALL, SINGLE))
        gone = [name for name, file in zip(wanted, found, strict=True) if file is None and name in named]
        if gone:
            raise InvalidListing(f"{self.name} names {gone[0]} ({SUMS if sums else INDEX}) but does not have it")
        files = tuple(replace(file, digest=names[file.name]) for file in found if file is not None)
        refuse_incomplete([*(file.name for file in files), *(name for name in names if not is_wanted(name))], self.name)
        return Listing(revision=fingerprint(files), files=files, urls={file.name: urls[file.name] for file in files})

    def credentials(self, method: str, url: httpx.URL, headers: httpx.Headers) -> dict[str, str]:
        """See `http.Access`."""
        del method, url, headers
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def refusal(self, answer: Answer) -> DownloadError | None:
        """See `http.Access`."""
        if answer.status in (401, 403):
            advice = "refuses the token in" if self._token else "wants a token: give it as"
            return Unauthorized(f"{shown(answer.url)} {advice} WENXIN_DOWNLOAD_TOKEN ({answer.status})")
        return None

    async def _guessed(self, http: Http) -> list[str]:
        try:
            body, _ = await http.read(self.origin.join(INDEX))
        except SourceNotFound:
            return [*SMALL, SINGLE]
        shards = sorted(set(decoded(body, _Index, f"{self.name}/{INDEX}").weight_map.values()))
        if strange := [name for name in shards if not is_wanted(name)]:
            raise InvalidListing(f"{self.name}/{INDEX} names a shard {strange[0]!r}: do not trust it")
        return [*SMALL, *shards]


async def _sums(http: Http, url: httpx.URL, source: str) -> dict[str, Digest]:
    try:
        body, _ = await http.read(url)
    except SourceNotFound:
        return {}
    return sums_of(body, source)


async def _facts(http: Http, name: str, url: httpx.URL, limit: asyncio.Semaphore) -> RemoteFile | None:
    """Ask for size and ETag; None where there is no such file."""
    async with limit:
        try:
            headers = await http.head(url)
        except SourceNotFound:
            return None
    size = headers.get("Content-Range", headers.get("Content-Length", "")).rpartition("/")[2]
    if _SIZE.fullmatch(size) is None:
        raise InvalidListing(f"{shown(url)}: the server does not say how long it is (Content-Length)")
    etag = headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else None
    return RemoteFile(name=name, size=int(size), validator=strong or headers.get("Last-Modified"))
