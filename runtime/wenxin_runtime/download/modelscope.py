"""modelscope://ORG/NAME: the protocol of ModelScope.

GET /api/v1/models/{id}/repo/files?Revision={r}&Recursive=true   -> {"Code": 200, "Data": {"Files": [{"Path", "Type",
                                                                    "Size", "Sha256", "Revision", "CommittedDate"}]}}
GET /api/v1/models/{id}/repo?Revision={commit}&FilePath={path}   -> the file, or a redirect to the CDN
`Type` is blob or tree; `Revision` of a file is the commit that changed it last; the token is a cookie and a bearer.
As in https://github.com/modelscope/modelscope, modelscope/hub/api.py and file_download.py.
"""

import httpx
import msgspec

from wenxin_runtime.download.http import Answer, Http, shown
from wenxin_runtime.download.listing import Digest, Listing, RemoteFile, decoded
from wenxin_runtime.download.selection import is_wanted, refuse_incomplete, refuse_unsafe
from wenxin_runtime.errors import DownloadError, SourceNotFound, Unauthorized

ENDPOINT = "https://www.modelscope.cn"


class _Entry(msgspec.Struct, rename="pascal"):
    path: str
    type: str = "blob"
    size: int = 0
    sha256: str = ""
    revision: str = ""
    committed_date: int = 0


class _Files(msgspec.Struct, rename="pascal"):
    files: list[_Entry] | None = None


class _Reply(msgspec.Struct, rename="pascal"):
    code: int = 200
    data: _Files | None = None
    message: str = ""


class ModelScope:
    """One repository of ModelScope."""

    def __init__(self, repository: str, revision: str | None, endpoint: str, token: str | None) -> None:
        """See `listing.Source`."""
        self.name = f"modelscope://{repository}"
        self.origin = httpx.URL(endpoint.rstrip("/"))
        self._where = shown(self.origin)
        self._repository = repository
        self._revision = revision or "master"
        self._token = token

    async def listing(self, http: Http, pinned: str | None) -> Listing:
        """List the files, each pinned to the commit that changed it last; the newest of these is the revision."""
        entries = await self._entries(http, pinned or self._revision)
        refuse_unsafe([entry.path for entry in entries], self.name)
        refuse_incomplete([entry.path for entry in entries], self.name)
        wanted = [entry for entry in entries if is_wanted(entry.path)]
        newest = max(entries, key=lambda entry: entry.committed_date).revision
        return Listing(
            revision=pinned or newest or self._revision,
            files=tuple(_file(entry) for entry in wanted),
            urls={entry.path: self._file_url(entry) for entry in wanted},
        )

    def credentials(self, method: str, url: httpx.URL, headers: httpx.Headers) -> dict[str, str]:
        """See `http.Access`."""
        del method, url, headers
        if not self._token:
            return {}
        return {"Cookie": f"m_session_id={self._token}", "Authorization": f"Bearer {self._token}"}

    def refusal(self, answer: Answer) -> DownloadError | None:
        """See `http.Access`."""
        if answer.status in (401, 403):
            advice = "may not read it" if self._token else "is not given"
            return Unauthorized(
                f"{self.name} is private or needs an agreement at {self._where}/models/{self._repository}: "
                f"MODELSCOPE_API_TOKEN {advice} ({answer.status})"
            )
        if answer.status == 404:
            return SourceNotFound(
                f"{self.name} does not exist at {self._where}, or has no revision {self._revision}: check both; "
                "for a private one give MODELSCOPE_API_TOKEN"
            )
        return None

    async def _entries(self, http: Http, revision: str) -> list[_Entry]:
        url = self._url("repo/files", {"Revision": revision, "Recursive": "true"})
        body, _ = await http.read(url)
        reply = decoded(body, _Reply, self.name)
        if reply.code != 200 or reply.data is None or not reply.data.files:
            raise SourceNotFound(
                f"{self.name} has no files at revision {revision} ({reply.message or reply.code}): "
                "check the name and --revision"
            )
        return [entry for entry in reply.data.files if entry.type == "blob"]

    def _file_url(self, entry: _Entry) -> httpx.URL:
        return self._url("repo", {"Revision": entry.revision or self._revision, "FilePath": entry.path})

    def _url(self, path: str, params: dict[str, str]) -> httpx.URL:
        base = self.origin.path.rstrip("/")
        return self.origin.copy_with(path=f"{base}/api/v1/models/{self._repository}/{path}", params=params)


def _file(entry: _Entry) -> RemoteFile:
    digest = Digest("sha256", entry.sha256.lower()) if entry.sha256 else None
    return RemoteFile(name=entry.path, size=entry.size, digest=digest)
