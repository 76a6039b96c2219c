"""One request: redirects, credentials for one host only, and every failure by its name.

A failure is a `DownloadError`, which ends the download, or `Transient`, after which it is worth trying again.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from wenxin_runtime import __version__
from wenxin_runtime.download.pace import Paced
from wenxin_runtime.download.proxies import Routes
from wenxin_runtime.download.retrying import Patience, Transient
from wenxin_runtime.errors import (
    ConfigError,
    DownloadError,
    DownloadFailed,
    InsecureSource,
    InvalidListing,
    SourceNotFound,
    Unauthorized,
)

_CONNECT_SECONDS = 10.0
_MOST_REDIRECTS = 10
_LONGEST_ERROR = 64 * 1024
_LONGEST_DOCUMENT = 64 * 2**20
_TRY_AGAIN = (408, 425, 429)
_CREDENTIALS_REFUSED = (401, 403)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is an error: enough of it to explain it."""

    url: httpx.URL
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def says(self) -> str:
        """The answer's own words, short enough for a message."""
        return " ".join(self.body[:300].decode("utf-8", "replace").split())


class NoSuchMethod(DownloadFailed):
    """The server knows no HEAD."""


class NoSuchRange(DownloadFailed):
    """The file ends before the range that was asked."""


class Access(Protocol):
    """Who asks, and what the answers of one host mean.

    Attributes:
        origin: The host; nothing else gets credentials.
    """

    origin: httpx.URL

    def credentials(self, method: str, url: httpx.URL, headers: httpx.Headers) -> dict[str, str]:
        """Give the headers that prove who asks."""
        ...

    def refusal(self, answer: Answer) -> DownloadError | None:
        """Explain an answer that is an error, if more is known than its status says."""
        ...


class Http:
    """Requests on behalf of one source."""

    def __init__(
        self, client: httpx.AsyncClient, access: Access, patience: Patience, *, allow_http_redirects: bool = False
    ) -> None:
        self._client = client
        self._access = access
        self._patience = patience
        self._allow_http = allow_http_redirects
        # Where a file was last found: a hub limits how often it may be asked for the address on its CDN.
        self._found: dict[httpx.URL, httpx.URL] = {}

    @contextlib.asynccontextmanager
    async def open(
        self, url: httpx.URL, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> AsyncIterator[httpx.Response]:
        """Request `url`, and yield an answer that is none of an error or a redirect; its body is still to be read.

        Raises:
            DownloadError: final.
            Transient: worth another try; also when reading the body fails.
        """
        asked = self._found.get(url, url)
        try:
            response = await self._follow(method, asked, dict(headers or {}))
            try:
                await self._refuse_errors(url, asked, response)
                self._found[url] = response.request.url
                yield response
            finally:
                await response.aclose()
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _failure(asked, error) from error

    async def read(self, url: httpx.URL) -> tuple[bytes, httpx.Headers]:
        """Fetch a document that fits in memory; try again where that helps.

        Raises:
            DownloadError: it cannot be had, or is larger than 64 MiB.
        """
        return await self._patience.until_done(lambda: self._read(url))

    async def head(self, url: httpx.URL, headers: Mapping[str, str] | None = None) -> httpx.Headers:
        """Ask about a file without fetching it, by a GET of its first byte where the server knows no HEAD.

        Raises:
            DownloadError: it cannot be had.
        """
        return await self._patience.until_done(lambda: self._head(url, headers or {}))

    async def _read(self, url: httpx.URL) -> tuple[bytes, httpx.Headers]:
        body = bytearray()
        async with self.open(url) as response:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _LONGEST_DOCUMENT:
                    raise InvalidListing(f"{shown(url)} is longer than {_LONGEST_DOCUMENT} bytes: not a listing")
            return bytes(body), response.headers

    async def _head(self, url: httpx.URL, headers: Mapping[str, str]) -> httpx.Headers:
        try:
            async with self.open(url, headers, "HEAD") as response:
                if "Content-Length" in response.headers:
                    return response.headers
        except NoSuchMethod:
            pass
        async with self.open(url, {**headers, "Range": "bytes=0-0"}) as response:
            return response.headers

    async def _follow(self, method: str, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
        for _ in range(_MOST_REDIRECTS):
            request = self._client.build_request(method, url, headers=headers)
            if _same_origin(url, self._access.origin):
                request.headers.update(self._access.credentials(method, url, request.headers))
            response = await self._client.send(request, stream=True)
            if response.next_request is None:
                return response
            await response.aclose()
            url = self._allowed(url, response.next_request.url)
        raise DownloadFailed(f"{shown(url)} leads in circles: more than {_MOST_REDIRECTS} redirects")

    def _allowed(self, url: httpx.URL, target: httpx.URL) -> httpx.URL:
        if target.scheme == "http" and url.scheme == "https" and not self._allow_http:
            raise InsecureSource(
                f"{shown(url)} redirects to plain http ({shown(target)}), where anybody on the way can read and change "
                "files; use another mirror, or allow it with --allow-http-redirects"
            )
        if target.scheme not in ("http", "https"):
            raise InsecureSource(f"{shown(url)} redirects to {target.scheme}://, which is not followed")
        return target

    async def _refuse_errors(self, url: httpx.URL, asked: httpx.URL, response: httpx.Response) -> None:
        if response.is_success:
            return
        if self._found.get(url) == asked:
            del self._found[url]
        at = response.request.url
        answer = Answer(at, response.status_code, response.headers, await _beginning(response))
        if asked != url and answer.status in (*_CREDENTIALS_REFUSED, 404, 410):
            raise Transient(f"the address {shown(at)} has expired")
        if not _same_origin(at, self._access.origin) and answer.status in _CREDENTIALS_REFUSED:
            # It was given none: what it refuses is the address, which another connection may have found out before.
            raise Transient(f"the address {shown(at)}, which {url.host} redirects to, is refused ({answer.status})")
        if _same_origin(at, self._access.origin) and (known := self._access.refusal(answer)) is not None:
            raise known
        raise _refusal(answer)


@contextlib.asynccontextmanager
async def http_for(
    access: Access, patience: Patience, *, connections: int, stall_seconds: float, allow_http_redirects: bool
) -> AsyncIterator[Http]:
    """Open the client; proxies and authorities are those of the environment.

    Raises:
        ConfigError: SSL_CERT_FILE or a proxy is no good.
    """
    try:
        client = httpx.AsyncClient(
            timeout=httpx.Timeout(stall_seconds, connect=min(stall_seconds, _CONNECT_SECONDS), pool=None),
            transport=Paced(
                Routes(httpx.Limits(max_connections=connections, max_keepalive_connections=connections)), stall_seconds
            ),
            headers={"User-Agent": f"wenxin-runtime/{__version__}", "Accept-Encoding": "identity"},
        )
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        raise ConfigError(f"SSL_CERT_FILE, SSL_CERT_DIR or HTTPS_PROXY cannot be used: {error}") from error
    async with client:
        yield Http(client, access, patience, allow_http_redirects=allow_http_redirects)


def shown(url: httpx.URL) -> str:
    """Spell `url` for a message: what follows the `?` may be a signature, and what precedes the `@` a password."""
    return str(url.copy_with(query=None, fragment=None, userinfo=b""))


def _same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.host, _port(one)) == (other.scheme, other.host, _port(other))


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


async def _beginning(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) >= _LONGEST_ERROR:
            break
    return bytes(body[:_LONGEST_ERROR])


def _refusal(answer: Answer) -> DownloadError | Transient:
    where = shown(answer.url)
    if answer.status == 501:
        return NoSuchMethod(f"{where} answers 501")
    if answer.status in _TRY_AGAIN or answer.status >= 500:
        return Transient(f"{where} answers {answer.status}", retry_after=_retry_after(answer.headers))
    if answer.status in _CREDENTIALS_REFUSED:
        return Unauthorized(f"{where} answers {answer.status}: give credentials that may read it, see --help")
    if answer.status in (404, 410):
        return SourceNotFound(f"{where} does not exist ({answer.status}): check SOURCE")
    kind = {405: NoSuchMethod, 416: NoSuchRange}.get(answer.status, DownloadFailed)
    return kind(f"{where} answers {answer.status}: {answer.says or 'no reason given'}")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Read seconds or a date: RFC 9110, 10.2.3. A date counts from the server's own clock, if it tells."""
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        then, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one of the two without a time zone
        return None


def _failure(url: httpx.URL, error: httpx.RequestError) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return InsecureSource(
                f"the certificate of {shown(url)} is not trusted ({cause.verify_message}): give the authority's "
                "certificate in a file, as SSL_CERT_FILE"
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.UnsupportedProtocol):
        return ConfigError(f"{shown(url)} cannot be spoken to: {error}")
    words = str(error) or type(error).__name__
    return Transient(f"{url.host}: {words}")
