"""The protocols, as the fixture checkpoint is served by each."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from urllib.parse import quote
from xml.sax.saxutils import escape

from tests.wenxin_runtime.download.remote import Face, Reply, Request, content

COMMIT, NEXT_COMMIT = "0123456789abcdef" * 2 + "01234567", "f" * 40
REPOSITORY = "baidu/ERNIE-4.5-tiny-PT"
Files = Mapping[str, bytes]


def as_json(value: object, headers: dict[str, str] | None = None) -> Reply:
    return Reply(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def git_blob(body: bytes) -> str:
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()


def hub_entry(path: str, body: bytes) -> dict[str, object]:
    entry = {"type": "file", "path": path, "size": len(body), "oid": git_blob(body)}
    if path.endswith(".safetensors"):
        lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        entry |= {"oid": "0" * 40, "lfs": lfs, "xetHash": "ab" * 32}
    return entry


def hub(
    revisions: Mapping[str, Files],
    *,
    cdn: str | None = None,
    token: str | None = None,
    page: int = 1000,
    main: str = COMMIT,
) -> Face:
    """The hub: `revisions` by commit; large files are redirected to `cdn`."""

    def tree(request: Request, commit: str) -> Reply:
        files = revisions[commit]
        names, start = sorted(files), int(request.query.get("cursor", 0))
        entries = [hub_entry(name, files[name]) for name in names[start : start + page]]
        more = start + page < len(names)
        link = f'<https://huggingface.co{request.path}?recursive=true&cursor={start + page}>; rel="next"'
        return as_json(
            [{"type": "directory", "path": "sub", "size": 0, "oid": ""}, *entries], {"Link": link} if more else {}
        )

    def face(request: Request) -> Reply:
        if token and request.headers.get("authorization") != f"Bearer {token}":
            return Reply(401, {"X-Error-Code": "RepoNotFound"}, b"Repository not found")
        if found := re.fullmatch(rf"/api/models/{REPOSITORY}/revision/([^/]+)", request.path):
            commit = main if found[1] == "main" else found[1]
            return as_json({"id": REPOSITORY, "sha": commit}) if commit in revisions else _no_revision()
        if found := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/(\w+)", request.path):
            return tree(request, found[1]) if found[1] in revisions else _no_revision()
        if found := re.fullmatch(rf"/{REPOSITORY}/resolve/(\w+)/(.+)", request.path):
            name, body = found[2], revisions[found[1]][found[2]]
            if cdn and name.endswith(".safetensors"):
                linked = {"X-Linked-Etag": hashlib.sha256(body).hexdigest(), "X-Repo-Commit": found[1]}
                return Reply(302, {"Location": f"{cdn}/{found[1]}/{name}?X-Amz-Signature=secret", **linked})
            return content(request, body, {"ETag": f'"{git_blob(body)}"'})
        return Reply(404, {"X-Error-Code": "RepoNotFound"}, b"Repository not found")

    return face


def _no_revision() -> Reply:
    return Reply(404, {"X-Error-Code": "RevisionNotFound"}, b"Invalid rev id")


def cdn(revisions: Mapping[str, Files]) -> Face:
    """Signed addresses: another host, which is given no token."""

    def face(request: Request) -> Reply:
        if request.query != {"X-Amz-Signature": "secret"} or {"authorization", "cookie"} & request.headers.keys():
            return Reply(400, {}, b"Only one auth mechanism allowed")
        commit, _, name = request.path[1:].partition("/")
        return content(request, revisions[commit][name], {"ETag": '"of-the-cdn"'})

    return face


def modelscope(files: Files, token: str | None = None) -> Face:
    def entry(path: str, body: bytes) -> dict[str, object]:
        return {
            "CommitMessage": "update",
            "CommittedDate": 1667548386 + len(path),
            "CommitterName": "行嗔",
            "InCheck": False,
            "IsLFS": path.endswith(".safetensors"),
            "Mode": "33188",
            "Name": path.rpartition("/")[2],
            "Path": path,
            "Revision": git_blob(path.encode()),
            "Sha256": hashlib.sha256(body).hexdigest(),
            "Size": len(body),
            "Type": "blob",
        }

    def face(request: Request) -> Reply:
        base = f"/api/v1/models/{REPOSITORY}/repo"
        if token and f"m_session_id={token}" not in request.headers.get("cookie", ""):
            return Reply(403, {}, b'{"Code":10010205001,"Message":"no permission","Success":false}')
        if request.path == f"{base}/files" and request.query["Recursive"] == "true":
            tree = {"Name": "sub", "Path": "sub", "Type": "tree", "Size": 0, "Revision": "", "CommittedDate": 1}
            entries = [tree, *(entry(name, body) for name, body in sorted(files.items()))]
            return as_json({"Code": 200, "Data": {"Files": entries}, "Message": "success", "Success": True})
        if request.path == base and request.query["FilePath"] in files:
            name = request.query["FilePath"]
            assert request.query["Revision"] == git_blob(name.encode())
            return content(request, files[name])
        return Reply(404, {}, b'{"Code":10010205001,"Message":"Not found","Success":false}')

    return face


def web(files: Files, token: str | None = None) -> Face:
    def face(request: Request) -> Reply:
        if token and request.headers.get("authorization") != f"Bearer {token}":
            return Reply(401)
        body = files.get(request.path.removeprefix("/models/tiny/"))
        if body is None or not request.path.startswith("/models/tiny/"):
            return Reply(404, {}, b"not here")
        return content(request, body, {"ETag": etag(body)})

    return face


def s3(
    files: Files, *, base: str = "/bucket", prefix: str = "models/tiny/", page: int = 1000, keyed: bool = False
) -> Face:
    """A bucket in path style (`base`), which lists `page` keys at a time."""

    def listing(query: dict[str, str]) -> Reply:
        names, start = sorted(files), int(query.get("continuation-token", "0 ").split(" ")[0])
        items = "".join(
            f"<Contents><Key>{quote(prefix + name)}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>"
            f"<ETag>{etag(files[name])}</ETag><Size>{len(files[name])}</Size></Contents>"
            for name in names[start : start + page]
        )
        more = start + page < len(names)
        token = escape(f"{start + page} +/=&") if more else ""
        rest = f"<NextContinuationToken>{token}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{items}{rest}<CommonPrefixes><Prefix>{prefix}sub/</Prefix></CommonPrefixes></ListBucketResult>"
        )
        return Reply(200, {"Content-Type": "application/xml"}, body.encode())

    def face(request: Request) -> Reply:
        if keyed and not request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential=AKIA"):
            return s3_error(403, "AccessDenied")
        if request.path.rstrip("/") == base.rstrip("/") and request.query.get("list-type") == "2":
            assert request.query["prefix"] == prefix
            return listing(request.query)
        body = files.get(request.path.removeprefix(f"{base.rstrip('/')}/{prefix}"))
        if body is None:
            return s3_error(404, "NoSuchKey")
        headers = {"ETag": etag(body)}
        if request.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers["x-amz-checksum-sha256"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
        return content(request, body, headers)

    return face


def s3_error(status: int, code: str, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, headers or {}, f"<Error><Code>{code}</Code><Message>words</Message></Error>".encode())
