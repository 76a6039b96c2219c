"""hf://ORG/NAME: the protocol of the Hugging Face hub and of its mirrors.

GET /api/models/{repo}/revision/{revision}                  -> {"sha": commit}
GET /api/models/{repo}/tree/{commit}?recursive=true         -> [{"type", "path", "size", "oid", "lfs": {"oid",
                                                               "size"}}], the next page by a Link header
GET /{repo}/resolve/{commit}/{file}                         -> the file, or a redirect to the CDN
`lfs.oid` is the SHA-256 of a large file, `oid` the git blob id of a small one. https://huggingface.co/docs/hub/api
"""

import re
from urllib.parse import quote

import httpx
import msgspec

from wenxin_runtime.download.http import Answer, Http, shown
from wenxin_runtime.download.listing import Digest, Listing, RemoteFile, decoded
from wenxin_runtime.download.selection import is_wanted, refuse_incomplete, refuse_too_many, refuse_unsafe
from wenxin_runtime.errors import DownloadError, InvalidListing, SourceNotFound, Unauthorized

ENDPOINT = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_PAGES = 1000


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
        self._where = shown(self.origin)
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
        page = f"{self._where}/{self._repository}"
        if code == "GatedRepo":
            return Unauthorized(
                f"{self.name} is gated: accept its terms at {page} with your account, and give a token of that account "
                "as HF_TOKEN"
            )
        if code == "RevisionNotFound":
            return SourceNotFound(f"{self.name} has no revision {self._revision}: check --revision at {page}/tree/main")
        if answer.status == 401 and self._token and code != "RepoNotFound":
            return Unauthorized(f"{self._where} refuses the token in HF_TOKEN: it is wrong, expired or revoked")
        if code == "RepoNotFound" or answer.status == 401:
            what = "that HF_TOKEN's account may not see" if self._token else "private: then give HF_TOKEN"
            return SourceNotFound(f"{self.name} does not exist at {self._where} (check the name), or it is {what}")
        return None

    async def _commit(self, http: Http) -> str:
        body, _ = await http.read(self._url(f"api/models/{self._repository}/revision/{quote(self._revision, safe='')}"))
        commit = decoded(body, _Revision, self.name).sha
        if not _COMMIT.fullmatch(commit):
            raise InvalidListing(
                f"{self.name} tells no commit for {self._revision}: is {self._where} a mirror of the hub?"
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
            entries += decoded(body, list[_Entry], self.name)
            refuse_too_many(entries, self.name)
            url = _next_page(url, headers)
        raise InvalidListing(f"{self.name}: its listing has no end")

    def _url(self, path: str) -> httpx.URL:
        return self.origin.copy_with(path=f"{self.origin.path.rstrip('/')}/{path}")


def _next_page(url: httpx.URL, headers: httpx.Headers) -> httpx.URL | None:
    """Take the cursor from the Link header; a mirror may pass on the hub's own host and path in it."""
    link = httpx.Response(200, headers=headers).links.get("next", {}).get("url")
    return None if link is None else url.copy_with(query=link.partition("?")[2].encode())


def _file(entry: _Entry) -> RemoteFile:
    if entry.lfs is not None:
        return RemoteFile(name=entry.path, size=entry.lfs.size, digest=Digest("sha256", entry.lfs.oid))
    return RemoteFile(name=entry.path, size=entry.size, digest=Digest("git-sha1", entry.oid) if entry.oid else None)
