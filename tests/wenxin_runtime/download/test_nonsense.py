"""Answers that no honest server gives: each ends in an error with a name and an exit code, never in a traceback."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.wenxin_runtime.download import faces
from tests.wenxin_runtime.download.conftest import fetched, held_by, is_published, options
from tests.wenxin_runtime.download.faces import COMMIT, REPOSITORY
from tests.wenxin_runtime.download.remote import Face, Reply, Request, failing, running, some
from wenxin_runtime.download.sources import source_of
from wenxin_runtime.errors import ConfigError, DownloadFailed, InvalidListing, SourceNotFound

HUB, SCOPE, BUCKET = f"hf://{REPOSITORY}", f"modelscope://{REPOSITORY}", "s3://bucket/models/tiny"
SHARD = "00002-of-00002"
DEEP = b'{"x":' * 50_000 + b"1" + b"}" * 50_000
GBK = '<?xml version="1.0" encoding="GBK"?><错误/>'.encode("gbk")
Files = dict[str, bytes]


def always(status: int = 200, body: bytes = b"", **headers: str) -> Face:
    return lambda _: Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize(
    ("source", "face", "kind"),
    [
        (HUB, always(body=DEEP), InvalidListing),
        (HUB, always(body=b'{"sha": "\xff"}'), InvalidListing),
        (HUB, always(body=b"no gzip", Content_Encoding="gzip"), DownloadFailed),
        (HUB, always(429, Retry_After="Wed, 21 Oct 2026 07:28:00 -0000", Date="Wed, 21 Oct 2026"), DownloadFailed),
        (SCOPE, always(body=DEEP), InvalidListing),
        (SCOPE, always(body=b'{"Code": "\xff"}'), InvalidListing),
        (BUCKET, always(body=GBK), InvalidListing),
        (BUCKET, always(body=b'<?xml version="1.0" encoding="odd"?><a/>'), InvalidListing),
        (BUCKET, always(400, body=GBK), DownloadFailed),
        (BUCKET, always(404, body=GBK), SourceNotFound),
    ],
)
async def test_an_answer_that_cannot_be_read_is_an_error_with_a_name(
    source: str, face: Face, kind: type[Exception], target: Path
) -> None:
    async with running(face) as server:
        with pytest.raises(kind):
            await fetched(source, target, mirror=server.url)


@pytest.mark.parametrize("size", ["\xb2", "9" * 5000, "-1", "0x10"])
async def test_a_length_that_is_no_number_is_refused(size: str, files: Files, target: Path) -> None:
    face = faces.web(files)

    def without_head(request: Request) -> Reply:
        if request.method == "HEAD":
            return Reply(405)
        reply = face(request)
        told = {"Content-Range": f"bytes 0-0/{size}"} if request.range == (0, 0) else {}
        return replace(reply, headers=reply.headers | told)

    async with running(without_head) as server:
        with pytest.raises(InvalidListing, match="how long"):
            await fetched(f"{server.url}/models/tiny", target)


@pytest.mark.parametrize(
    ("sums", "words"),
    [
        (b"not sums\n", "SHA256SUMS, line 1"),
        (b"SHA256 (config.json) = " + b"0" * 64, "SHA256SUMS, line 1"),
        (b"0" * 64 + b"  config.json\n" + b"1" * 64 + b"  config.json\n", "line 2: another digest of config.json"),
        (b"0" * 64 + b"  config.json\n\xff\xfe\0", "SHA256SUMS, line 2"),
    ],
)
@pytest.mark.parametrize("kind", ["web", "s3"])
async def test_sums_of_a_source_that_are_none_condemn_the_source_and_not_the_flags(
    kind: str, sums: bytes, words: str, files: Files, target: Path
) -> None:
    served = files | {"SHA256SUMS": sums}
    async with running(faces.web(served) if kind == "web" else faces.s3(served)) as server:
        source, mirror = (BUCKET, server.url) if kind == "s3" else (f"{server.url}/models/tiny", None)
        with pytest.raises(InvalidListing, match=words):
            await fetched(source, target, mirror=mirror)


async def test_sums_may_be_written_on_windows(files: Files, target: Path) -> None:
    from tests.wenxin_runtime.download.test_sources import sums_of

    sums = b"\xef\xbb\xbf" + sums_of(files).replace(b"\n", b"\r\n")
    async with running(faces.web(files | {"SHA256SUMS": sums})) as server:
        await fetched(f"{server.url}/models/tiny", target)
    assert held_by(target) == files


@pytest.mark.parametrize("source", [HUB, BUCKET])
async def test_a_listing_without_an_end_is_left_before_it_fills_the_memory(source: str, target: Path) -> None:
    entries = ",".join(f'{{"type":"file","path":"{number}"}}' for number in range(40_000))
    objects = "".join(f"<Contents><Key>models/tiny/{number}</Key><Size>1</Size></Contents>" for number in range(40_000))
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>more</NextContinuationToken>"

    def face(request: Request) -> Reply:
        if "revision" in request.path:
            return faces.as_json({"sha": COMMIT})
        if source == BUCKET:
            return Reply(200, {}, f"<ListBucketResult>{objects}{more}</ListBucketResult>".encode())
        return Reply(200, {"Link": f'<{request.path}?cursor=more>; rel="next"'}, f"[{entries}]".encode())

    async with running(face) as server:
        with pytest.raises(InvalidListing, match="more than 100000 files"):
            await fetched(source, target, mirror=server.url)
    assert len(server.requests) < 6


async def test_a_link_to_the_next_page_leads_to_no_other_page(files: Files, target: Path) -> None:
    face = faces.hub({COMMIT: files}, page=3)

    def with_a_prefix(request: Request) -> Reply:
        if not request.path.startswith("/hub/"):
            return Reply(404)
        return face(replace(request, target=request.target.removeprefix("/hub")))

    async with running(with_a_prefix) as server:
        await fetched(HUB, target, mirror=f"{server.url}/hub")
    assert held_by(target) == files


async def test_a_file_that_became_shorter_is_listed_again(files: Files, target: Path) -> None:
    name = f"model-{SHARD}.safetensors"
    changed = some(SHARD, 1, lambda *_: Reply(416, {"Content-Range": "bytes */10"}))
    async with running(faces.web(files)) as server:
        server.mischief = lambda request, reply: changed(request, reply) if request.range else reply
        await fetched(f"{server.url}/models/tiny", target)
        assert held_by(target) == files
        server.mischief = failing(SHARD, 416)
        with pytest.raises(DownloadFailed, match=rf"{name} is shorter .* again and again"):
            await fetched(f"{server.url}/models/tiny", target.with_name("two"))


async def test_a_host_that_refuses_the_address_it_was_given_is_asked_again_and_no_credentials_are_wanted(
    files: Files, target: Path
) -> None:
    revisions = {COMMIT: files}
    async with running(faces.cdn(revisions)) as cdn, running(faces.hub(revisions, cdn=cdn.url)) as hub:
        cdn.mischief = failing(SHARD, 403, times=2)
        await fetched(HUB, target, mirror=hub.url, connections=1)
        assert held_by(target) == files
        cdn.mischief = failing(SHARD, 403)
        with pytest.raises(DownloadFailed, match=r"redirects to, is refused \(403\)") as caught:
            await fetched(HUB, target.with_name("two"), mirror=hub.url)
    assert "credentials" not in str(caught.value)
    assert "secret" not in str(caught.value)  # of the signed address


@pytest.mark.parametrize("source", [HUB, SCOPE])
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_password_in_the_address_of_a_hub_is_in_no_message(source: str, status: int, target: Path) -> None:
    async with running(always(status)) as server:
        endpoint = server.url.replace("//", "//robot:hidden@")
        with pytest.raises(Exception, match="127") as caught:
            await fetched(source, target, {"HF_ENDPOINT": endpoint, "MODELSCOPE_DOMAIN": endpoint})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "mirror", "variable"),
    [
        ("https://host:port/a", None, ""),
        ("https:///a", None, ""),
        (HUB, "http://[::bad", ""),
        (HUB, "http://robot:hidden@mirror", ""),
        (HUB, "http://mirror/?token=hidden", ""),
        (HUB, "ftp://robot:hidden@mirror", ""),
        (HUB, None, "http://[::bad"),
        (HUB, None, "mirror"),
    ],
)
def test_an_address_that_is_none_is_an_error_of_the_flags(
    source: str, mirror: str | None, variable: str, target: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        source_of(options(source, target, mirror=mirror), {"HF_ENDPOINT": variable})
    assert "hidden" not in str(caught.value)
    assert not is_published(target)
