"""Every source, by its own protocol: the same checkpoint arrives, and nothing else."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.wenxin_runtime.download import faces
from tests.wenxin_runtime.download.conftest import JUNK, fetched, held_by, is_published
from tests.wenxin_runtime.download.faces import COMMIT, NEXT_COMMIT, REPOSITORY
from tests.wenxin_runtime.download.remote import Reply, Request, dropping, failing, running, without_ranges
from wenxin_runtime import weights
from wenxin_runtime.errors import (
    CheckpointError,
    DownloadFailed,
    InsecureSource,
    InvalidListing,
    SourceNotFound,
    Unauthorized,
)

HUB, SCOPE = f"hf://{REPOSITORY}", f"modelscope://{REPOSITORY}"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_SESSION_TOKEN": "for an hour"}
Files = dict[str, bytes]


async def test_the_hub_gives_the_files_of_a_checkpoint_and_nothing_else(files: Files, target: Path) -> None:
    revisions = {COMMIT: files | JUNK}
    async with running(faces.cdn(revisions)) as cdn, running(faces.hub(revisions, cdn=cdn.url, page=3)) as hub:
        described = await fetched(HUB, target, {"HF_ENDPOINT": hub.url})
    assert held_by(target) == files
    assert described["revision"] == COMMIT
    assert described["digest"] == weights.inspect(target).digest
    assert not hub.asked("pytorch_model") + hub.asked("modeling") + hub.asked("onnx")


async def test_a_token_goes_to_the_hub_and_not_along_to_its_cdn(files: Files, target: Path) -> None:
    revisions = {COMMIT: files}
    face = faces.hub(revisions, token="hf_secret")
    async with running(faces.cdn(revisions)) as cdn, running(face) as hub:
        hub.face = faces.hub(revisions, token="hf_secret", cdn=cdn.url)
        await fetched(HUB, target, {"HF_TOKEN": "hf_secret"}, mirror=hub.url)
    assert held_by(target) == files
    assert cdn.requests
    assert all("authorization" not in request.headers for request in cdn.requests)


async def test_the_hub_is_asked_once_for_the_address_of_a_file_on_its_cdn(files: Files, target: Path) -> None:
    revisions = {COMMIT: files}
    async with running(faces.cdn(revisions)) as cdn, running(faces.hub(revisions, cdn=cdn.url)) as hub:
        await fetched(HUB, target, mirror=hub.url, connections=1)
    assert len(hub.asked("00001-of-00002")) == 1
    assert len(cdn.asked("00001-of-00002")) > 5


@pytest.mark.parametrize("connections", [1, 6])
async def test_an_address_that_expires_is_asked_for_again(connections: int, files: Files, target: Path) -> None:
    revisions = {COMMIT: files}
    async with running(faces.cdn(revisions)) as cdn, running(faces.hub(revisions, cdn=cdn.url)) as hub:
        expired = failing("00001-of-00002", 403, times=connections)
        cdn.mischief = lambda request, reply: reply if len(cdn.requests) < 4 else expired(request, reply)
        await fetched(HUB, target, mirror=hub.url, connections=connections, attempts=10)
    assert held_by(target) == files
    assert len(hub.asked("00001-of-00002")) >= 2


async def test_a_branch_that_moves_while_it_is_fetched_stays_what_it_was(files: Files, target: Path) -> None:
    newer = files | {"generation_config.json": b"{}"}
    async with running(faces.hub({COMMIT: files, NEXT_COMMIT: newer})) as hub:
        hub.mischief = failing("00002-of-00002", 503)
        with pytest.raises(DownloadFailed):
            await fetched(HUB, target, mirror=hub.url)
        hub.face, hub.mischief = faces.hub({COMMIT: files, NEXT_COMMIT: newer}, main=NEXT_COMMIT), None
        described = await fetched(HUB, target, mirror=hub.url)
    assert described["revision"] == COMMIT
    assert held_by(target) == files


async def test_a_commit_that_is_gone_is_resolved_anew_and_equal_files_are_kept(files: Files, target: Path) -> None:
    newer = files | {"generation_config.json": b"{}"}
    async with running(faces.hub({COMMIT: files})) as hub:
        hub.mischief = failing("00002-of-00002", 503)
        with pytest.raises(DownloadFailed):
            await fetched(HUB, target, mirror=hub.url, connections=1)
        hub.face, hub.mischief, hub.requests = faces.hub({NEXT_COMMIT: newer}, main=NEXT_COMMIT), None, []
        described = await fetched(HUB, target, mirror=hub.url)
    assert described["revision"] == NEXT_COMMIT
    assert held_by(target) == newer
    assert len(hub.asked("resolve") + hub.asked("config.json")) < len(files) * 9


async def test_a_private_or_missing_repository_says_which_variable_to_set(files: Files, target: Path) -> None:
    async with running(faces.hub({COMMIT: files}, token="hf_secret")) as hub:
        with pytest.raises(SourceNotFound, match="HF_TOKEN"):
            await fetched(HUB, target, mirror=hub.url)
        with pytest.raises(SourceNotFound, match="may not see"):
            await fetched(HUB, target, {"HF_TOKEN": "hf_other"}, mirror=hub.url)


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply(403, {"X-Error-Code": "GatedRepo"}), Unauthorized, "accept its terms"),
        (Reply(401, {"X-Error-Message": "Invalid credentials"}), Unauthorized, "refuses the token"),
        (Reply(404, {"X-Error-Code": "RevisionNotFound"}), SourceNotFound, "--revision"),
        (Reply(404), SourceNotFound, "check SOURCE"),
        (Reply(418, {}, b"a teapot"), DownloadFailed, "a teapot"),
        (Reply(200, {}, b"<html>log in</html>"), InvalidListing, "check the mirror and the proxy"),
        (Reply(200, {}, b'{"sha": "main"}'), InvalidListing, "no commit"),
        (Reply(302, {"Location": "/" + "x" * 9}), DownloadFailed, "in circles"),
        (Reply(302, {"Location": "ftp://127.0.0.1/"}), InsecureSource, "ftp"),
    ],
)
async def test_an_error_of_the_hub_says_what_to_do(
    reply: Reply, kind: type[Exception], words: str, target: Path
) -> None:
    async with running(lambda _: reply) as hub:
        with pytest.raises(kind, match=words) as caught:
            await fetched(HUB, target, {"HF_TOKEN": "hf_secret"}, mirror=hub.url)
    assert "hf_secret" not in str(caught.value)
    assert not is_published(target)


async def test_the_paddle_layout_is_refused_before_any_file_is_fetched(files: Files, target: Path) -> None:
    paddle = {name: body for name, body in files.items() if name != "tokenizer.json"} | {"tokenizer.model": b"pieces"}
    async with running(faces.hub({COMMIT: paddle})) as hub:
        with pytest.raises(CheckpointError, match="-PT"):
            await fetched(HUB, target, mirror=hub.url)
    assert not hub.asked("resolve")


async def test_weights_of_another_model_are_refused_by_their_headers(files: Files, target: Path) -> None:
    config = json.loads(files["config.json"]) | {"hidden_size": 128}
    wrong = files | {"config.json": json.dumps(config).encode()}
    async with running(faces.hub({COMMIT: wrong})) as hub:
        with pytest.raises(CheckpointError, match="shape"):
            await fetched(HUB, target, mirror=hub.url)
    assert hub.sent < sum(map(len, files.values())) // 2
    assert not is_published(target)


async def test_modelscope_gives_each_file_at_the_commit_that_changed_it_last(files: Files, target: Path) -> None:
    async with running(faces.modelscope(files | JUNK, token="ms_secret")) as scope:
        described = await fetched(SCOPE, target, {"MODELSCOPE_API_TOKEN": "ms_secret", "MODELSCOPE_DOMAIN": scope.url})
    assert held_by(target) == files
    assert len(described["revision"]) == 40


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply(403, {}, b"{}"), Unauthorized, "MODELSCOPE_API_TOKEN"),
        (Reply(404, {}, b"{}"), SourceNotFound, "check both"),
        (faces.as_json({"Code": 200, "Data": {"Files": []}}), SourceNotFound, "no files"),
        (faces.as_json({"Code": 10010205001, "Message": "未找到", "Data": None}), SourceNotFound, "未找到"),
        (Reply(200, {}, b"<html>"), InvalidListing, "no listing"),
        (Reply(418), DownloadFailed, "418"),
    ],
)
async def test_an_error_of_modelscope_says_what_to_do(
    reply: Reply, kind: type[Exception], words: str, target: Path
) -> None:
    async with running(lambda _: reply) as scope:
        with pytest.raises(kind, match=words):
            await fetched(SCOPE, target, mirror=scope.url)


async def test_a_folder_of_a_web_server_is_found_by_its_index(files: Files, target: Path) -> None:
    async with running(faces.web(files | JUNK, token="secret")) as server:
        described = await fetched(f"{server.url}/models/tiny/", target, {"WENXIN_DOWNLOAD_TOKEN": "secret"})
    assert held_by(target) == files
    assert described["revision"].startswith("sha256:")


def sums_of(files: Files) -> bytes:
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items()).encode()


async def test_a_folder_of_a_web_server_is_found_by_its_sums(files: Files, target: Path) -> None:
    async with running(faces.web(files | JUNK | {"SHA256SUMS": sums_of(files | JUNK)})) as server:
        await fetched(f"{server.url}/models/tiny", target)
    assert held_by(target) == files
    assert not server.asked("LICENSE")


async def test_a_server_without_head_tells_sizes_with_the_first_byte(files: Files, target: Path) -> None:
    face = faces.web(files)

    def without_head(request: Request) -> Reply:
        return Reply(405) if request.method == "HEAD" else face(request)

    async with running(without_head) as server:
        await fetched(f"{server.url}/models/tiny", target)
    assert held_by(target) == files


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"SHA256SUMS": b"0" * 64 + b"  ../../etc/passwd\n"}, InvalidListing, "leads out"),
        (
            {"SHA256SUMS": b"0" * 64 + b"  config.json\n" + b"0" * 64 + b"  a.safetensors\n"},
            InvalidListing,
            "a.safetensors",
        ),
        (
            {"model.safetensors.index.json": b"[]"},
            InvalidListing,
            "index.json answers with something that is no listing",
        ),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../b.safetensors"}}'},
            InvalidListing,
            "do not trust",
        ),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "c.safetensors"}}'}, InvalidListing, "does not have"),
        ({"config.json": None}, InvalidListing, "config.json"),
        ({"model.safetensors.index.json": None}, InvalidListing, "give the folder"),
    ],
)
async def test_a_folder_that_is_no_checkpoint_is_refused(
    change: dict[str, bytes | None], kind: type[Exception], words: str, files: Files, target: Path
) -> None:
    served = {name: body for name, body in (files | change).items() if body is not None}
    async with running(faces.web(served)) as server:
        with pytest.raises(kind, match=words):
            await fetched(f"{server.url}/models/tiny", target)
    assert not is_published(target)


async def test_a_web_server_that_wants_a_token_says_so(files: Files, target: Path) -> None:
    async with running(faces.web(files, token="secret")) as server:
        with pytest.raises(Unauthorized, match="give it as WENXIN_DOWNLOAD_TOKEN"):
            await fetched(f"{server.url}/models/tiny", target)


async def test_a_server_that_does_not_say_how_long_a_file_is_is_refused(files: Files, target: Path) -> None:
    face = without_ranges(faces.web(files))
    async with running(lambda request: replace(face(request), length="")) as server:
        with pytest.raises(InvalidListing, match="how long"):
            await fetched(f"{server.url}/models/tiny", target)


async def test_a_file_that_changes_is_listed_and_fetched_again(files: Files, target: Path) -> None:
    newer = files | {"model-00002-of-00002.safetensors": files["model-00002-of-00002.safetensors"][:-4] + b"\0\0\0\1"}
    async with running(faces.web(files)) as server:
        change = dropping("00002-of-00002", after=10, times=1)

        def update(request: Request, reply: Reply) -> Reply:
            if request.range and request.range[0] and "00002-of-00002" in request.target:
                server.face = faces.web(newer)
            return change(request, reply)

        server.mischief = update
        await fetched(f"{server.url}/models/tiny", target, connections=1)
    assert held_by(target) == newer


async def test_a_folder_that_never_rests_is_given_up(files: Files, target: Path) -> None:
    face = faces.web(files)
    async with running(face) as server:
        server.mischief = lambda request, reply: replace(
            reply, headers=reply.headers | ({"ETag": '"other"'} if request.range else {})
        )
        with pytest.raises(DownloadFailed, match="again and again"):
            await fetched(f"{server.url}/models/tiny", target)


async def test_a_bucket_is_listed_page_by_page_and_its_checksums_are_asked(files: Files, target: Path) -> None:
    async with running(faces.s3(files | JUNK, page=2, keyed=True)) as store:
        await fetched("s3://bucket/models/tiny", target, KEYS | {"AWS_ENDPOINT_URL": store.url})
    assert held_by(target) == files
    assert all(request.headers["x-amz-security-token"] == "for an hour" for request in store.requests)
    assert "hidden" not in str([request.headers for request in store.requests])


async def test_without_credentials_a_bucket_is_asked_anonymously(files: Files, target: Path) -> None:
    sums = {"SHA256SUMS": sums_of(files)}
    async with running(faces.s3(files | sums)) as store:
        await fetched("s3://bucket/models/tiny/", target, mirror=store.url)
    assert held_by(target) == files
    assert not [request for request in store.requests if request.method == "HEAD" or "authorization" in request.headers]


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (faces.s3_error(403, "AccessDenied"), Unauthorized, "the key AKIAEXAMPLE .* s3:ListBucket"),
        (faces.s3_error(404, "NoSuchBucket"), SourceNotFound, "NoSuchBucket"),
        (
            faces.s3_error(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
            DownloadFailed,
            "AWS_REGION=eu-west-1",
        ),
        (faces.s3_error(403, "SecondLevelDomainForbidden"), DownloadFailed, "--s3-addressing virtual"),
        (faces.s3_error(403, "RequestTimeTooSkewed"), DownloadFailed, "clocks"),
        (faces.s3_error(400, "Odd"), DownloadFailed, "Odd"),
        (Reply(200, {}, b"<html></html>"), InvalidListing, "html"),
        (Reply(200, {}, b"hello"), InvalidListing, "no listing"),
    ],
)
async def test_an_error_of_a_bucket_says_what_to_do(
    reply: Reply, kind: type[Exception], words: str, target: Path
) -> None:
    async with running(lambda _: reply) as store:
        with pytest.raises(kind, match=words) as caught:
            await fetched("s3://bucket/models/tiny", target, KEYS, mirror=store.url)
    assert "hidden" not in str(caught.value)


async def test_an_anonymous_refusal_says_that_no_key_is_set(target: Path) -> None:
    async with running(lambda _: faces.s3_error(403, "AccessDenied")) as store:
        with pytest.raises(Unauthorized, match="no AWS_ACCESS_KEY_ID"):
            await fetched("s3://bucket/models/tiny", target, mirror=store.url)
