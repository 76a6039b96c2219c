"""hf://ORG/NAME: the protocol of the Hugging Face hub and of its mirrors.

GET /api/models/{repo}/revision/{revision}                  -> {"sha": commit}
GET /api/models/{repo}/tree/{commit}?recursive=true         -> [{"type", "path", "size", "oid", "lfs": {"oid",
                                                               "size"}}], the next page by a Link header
GET /{repo}/resolve/{commit}/{file}                         -> the file, or a redirect to the CDN
`lfs.oid` is the SHA-256 of a large file, `oid` the git blob id of a small one. https://huggingface.co/docs/hub/api
"""

import re
from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec

from wenxin_runtime.download.http import Answer, Http
from wenxin_runtime.download.listing import Digest, Listing, RemoteFile
from wenxin_runtime.download.selection import is_wanted, refuse_incomplete, refuse_unsafe
from wenxin_runtime.errors import DownloadError, InvalidListing, SourceNotFound, Unauthorized

ENDPOINT = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_PAGES = 1000

T = TypeVar("T")


class _Lfs(msgspec.Struct):
    oid: str
    size: int


class _Entry(msgspec.Struct):
    type: str
    path: str
    size: int = 0
    oid: str = ""
    lfs: _Lfs | None = None


class _Revision(msgspec.Struct):
    sha: str


class Hub:
    """One repository of the hub."""

    def __init__(self, repository: str, revision: str | None, endpoint: str, token: str | None) -> None:
        """See `listing.Source`; `endpoint` is the hub itself or a mirror of it."""
        self.name = f"hf://{repository}"
        self.origin = httpx.URL(endpoint.rstrip("/"))
        self._repository = repository
        self._revision = revision or "main"
        self._token = token

    async def listing(self, http: Http, pinned: str | None) -> Listing:
        """See `listing.Source`."""
        commit = pinned or await self._commit(http)
        entries = [entry for entry in await self._tree(http, commit) if entry.type == "file"]
        refuse_unsafe([entry.path for entry in entries], self.name)
        refuse_incomplete([entry.path for entry in entries], self.name)
        files = tuple(_file(entry) for entry in entries if is_wanted(entry.path))
        urls = {file.name: self._url(f"{self._repository}/resolve/{commit}/{quote(file.name)}") for file in files}
        return Listing(revision=commit, files=files, urls=urls)

    def credentials(self, method: str, url: httpx.URL, headers: httpx.Headers) -> dict[str, str]:
        """See `http.Access`."""
        del method, url, headers
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def refusal(self, answer: Answer) -> DownloadError | None:
        """Read the hub's own header; it answers 401 for what does not exist, too."""
        code = answer.headers.get("X-Error-Code", "")
        page = f"{self.origin}/{self._repository}"
        if code == "GatedRepo":
            return Unauthorized(
                f"{self.name} is gated: accept its terms at {page} with your account, and give a token of that account "
                "as HF_TOKEN"
            )
        if code == "RevisionNotFound":
            return SourceNotFound(f"{self.name} has no revision {self._revision}: check --revision at {page}/tree/main")
        if answer.status == 401 and self._token and code != "RepoNotFound":
            return Unauthorized(f"{self.origin} refuses the token in HF_TOKEN: it is wrong, expired or revoked")
        if code == "RepoNotFound" or answer.status == 401:
            what = "that HF_TOKEN's account may not see" if self._token else "private: then give HF_TOKEN"
            return SourceNotFound(f"{self.name} does not exist at {self.origin} (check the name), or it is {what}")
        return None

    async def _commit(self, http: Http) -> str:
        body, _ = await http.read(self._url(f"api/models/{self._repository}/revision/{quote(self._revision, safe='')}"))
        commit = _decoded(body, _Revision, self.name).sha
        if not _COMMIT.fullmatch(commit):
            raise InvalidListing(
                f"{self.name} tells no commit for {self._revision}: is {self.origin} a mirror of the hub?"
            )
        return commit

    async def _tree(self, http: Http, commit: str) -> list[_Entry]:
        url: httpx.URL | None = self._url(f"api/models/{self._repository}/tree/{commit}").copy_with(
            params={"recursive": "true"}
        )
        entries: list[_Entry] = []
        for _ in range(_MOST_PAGES):
            if url is None:
                return entries
            body, headers = await http.read(url)
            entries += _decoded(body, list[_Entry], self.name)
            url = self._next_page(url, headers)
        raise InvalidListing(f"{self.name}: its listing has no end")

    def _next_page(self, url: httpx.URL, headers: httpx.Headers) -> httpx.URL | None:
        """Follow the Link header; a mirror may pass on the hub's own host in it."""
        link = httpx.Response(200, headers=headers).links.get("next", {}).get("url")
        if link is None:
            return None
        target = url.join(link)
        return target.copy_with(scheme=url.scheme, host=url.host, port=url.port)

    def _url(self, path: str) -> httpx.URL:
        return self.origin.copy_with(path=f"{self.origin.path.rstrip('/')}/{path}")


def _file(entry: _Entry) -> RemoteFile:
    if entry.lfs is not None:
        return RemoteFile(name=entry.path, size=entry.lfs.size, digest=Digest("sha256", entry.lfs.oid))
    return RemoteFile(name=entry.path, size=entry.size, digest=Digest("git-sha1", entry.oid) if entry.oid else None)


def _decoded(body: bytes, kind: type[T], source: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidListing(
            f"{source} answers with something that is no listing ({error}): check the mirror and the proxy"
        ) from error
