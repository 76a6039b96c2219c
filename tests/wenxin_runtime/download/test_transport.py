"""Servers that drop, lie, stall, flip a bit or know no ranges: the checkpoint arrives whole, or not at all."""

import datetime as dt
import ipaddress
import json
import ssl
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.wenxin_runtime.download import faces
from tests.wenxin_runtime.download.conftest import fetched, held_by, is_published
from tests.wenxin_runtime.download.faces import COMMIT, REPOSITORY
from tests.wenxin_runtime.download.remote import (
    Mischief,
    Reply,
    Request,
    dripping,
    dropping,
    failing,
    flipping,
    running,
    some,
    without_ranges,
)
from wenxin_runtime.download.pace import LEAST_BYTES_PER_SECOND, Pace
from wenxin_runtime.download.retrying import Patience, Transient
from wenxin_runtime.errors import ChecksumMismatch, ConfigError, DownloadFailed, InsecureSource, NotEnoughSpace

HUB = f"hf://{REPOSITORY}"
SHARD = "00001-of-00002"
Files = dict[str, bytes]


def changed(**fields: object) -> Mischief:
    return some(SHARD, 2, lambda _, reply: replace(reply, **fields))


@pytest.mark.parametrize(
    "mischief",
    [
        dropping("00002-of-00002", after=40_000, times=12),
        dropping("resolve", after=0, times=3),
        failing("resolve", 503, times=3),
        failing("resolve", 429, times=2, headers={"Retry-After": "0"}),
        failing("resolve", 408, times=1),
        failing("tree", 502, times=3),
        failing("revision", 500, times=3),
        flipping(SHARD, times=1),
        flipping("config.json", times=2),
        some(SHARD, 2, lambda _, reply: replace(reply, body=reply.body + b"more")),
        some(SHARD, 2, lambda _, reply: replace(reply, body=reply.body[:-4])),
        some(SHARD, 2, lambda _, reply: replace(reply, body=reply.body + b"more", length="")),
        some(SHARD, 2, lambda _, reply: replace(reply, body=reply.body[:-4], length="")),
        some(SHARD, 2, lambda _, reply: replace(reply, headers={"Content-Range": "bytes 0-3/4"})),
        some(SHARD, 2, lambda _, reply: replace(reply, headers={})),
        some("config.json", 2, lambda _, reply: replace(reply, body=b"{}")),
    ],
    ids=[
        *("drops in the middle", "drops at once", "503", "429", "408", "502 of a listing", "500 of a revision"),
        *("a flipped bit", "two flipped bits", "sends too much", "sends too little", "sends too much, no length"),
        *("sends too little, no length", "another range", "no range told", "another length"),
    ],
)
async def test_what_a_server_does_now_and_then_is_overcome(mischief: Mischief, files: Files, target: Path) -> None:
    async with running(faces.hub({COMMIT: files})) as hub:
        hub.mischief = mischief
        await fetched(HUB, target, mirror=hub.url)
    assert held_by(target) == files


@pytest.mark.parametrize(
    ("mischief", "kind", "words"),
    [
        (dropping(SHARD, after=100), DownloadFailed, "4 tries"),
        (failing(SHARD, 503), DownloadFailed, "503"),
        (flipping(SHARD), ChecksumMismatch, "fetched 3 times .* another mirror"),
        (flipping("config.json"), ChecksumMismatch, "git-sha1"),
        (some(SHARD, -1, lambda _, reply: replace(reply, body=reply.body + b"more")), DownloadFailed, "should have"),
        (
            some(SHARD, -1, lambda _, reply: replace(reply, headers={"Content-Encoding": "gzip"})),
            ConfigError,
            "compresses",
        ),
        (
            some(SHARD, -1, lambda *_: Reply(302, {"Location": "http://[::bad/"})),
            DownloadFailed,
            "Invalid URL",
        ),
    ],
)
async def test_what_a_server_does_always_ends_the_download_by_its_name(
    mischief: Mischief, kind: type[Exception], words: str, files: Files, target: Path
) -> None:
    async with running(faces.hub({COMMIT: files})) as hub:
        hub.mischief = mischief
        with pytest.raises(kind, match=words):
            await fetched(HUB, target, mirror=hub.url)
    assert not is_published(target)


@pytest.mark.parametrize("connections", [1, 6])
@pytest.mark.parametrize("chunk_bytes", [4096, 65536, 2**24])
async def test_a_server_without_ranges_gives_whole_files(
    connections: int, chunk_bytes: int, files: Files, target: Path
) -> None:
    async with running(without_ranges(faces.web(files))) as server:
        source = f"{server.url}/models/tiny"
        await fetched(source, target, connections=connections, chunk_bytes=chunk_bytes)
    assert held_by(target) == files


async def test_a_server_without_ranges_may_drop_too(files: Files, target: Path) -> None:
    async with running(without_ranges(faces.hub({COMMIT: files}))) as hub:
        hub.mischief = dropping("resolve", after=300_000, times=3)
        await fetched(HUB, target, mirror=hub.url)
    assert held_by(target) == files


async def test_a_server_without_ranges_that_always_drops_is_given_up(files: Files, target: Path) -> None:
    async with running(without_ranges(faces.hub({COMMIT: files}))) as hub:
        hub.mischief = dropping(SHARD, after=300_000)
        with pytest.raises(DownloadFailed, match="tries"):
            await fetched(HUB, target, mirror=hub.url)


async def test_a_server_that_stalls_is_asked_again(files: Files, target: Path) -> None:
    async with running(faces.hub({COMMIT: files})) as hub:
        hub.hold = lambda request: SHARD in request.target and hub.held < 2
        await fetched(HUB, target, mirror=hub.url, stall_timeout=0.2)
    assert hub.held == 2
    assert held_by(target) == files


@pytest.mark.parametrize("where", ["headers", "body"])
@pytest.mark.parametrize("part", [SHARD, "tree"])
async def test_a_server_that_gives_a_byte_now_and_then_is_asked_again(
    part: str, where: str, files: Files, target: Path
) -> None:
    async with running(faces.hub({COMMIT: files})) as hub:
        hub.mischief = dripping(part, where, times=2)
        await fetched(HUB, target, mirror=hub.url, stall_timeout=0.5)
    assert held_by(target) == files


@pytest.mark.parametrize("where", ["headers", "body"])
async def test_a_server_that_never_gives_more_than_a_byte_now_and_then_is_given_up(
    where: str, files: Files, target: Path
) -> None:
    async with running(faces.hub({COMMIT: files})) as hub:
        hub.mischief = dripping(SHARD, where)
        with pytest.raises(DownloadFailed, match=r"--stall-timeout.*4 tries"):
            await fetched(HUB, target, mirror=hub.url, stall_timeout=0.2)
    assert not is_published(target)


def test_an_answer_is_too_slow_below_a_kibibyte_a_second_over_the_window_and_no_earlier() -> None:
    slow = Pace(window=30)
    for _ in range(29):
        slow.check(waited=1, received=1)
    with pytest.raises(httpx.ReadTimeout, match="30 bytes"):
        slow.check(waited=1, received=1)


def test_each_window_is_judged_by_itself() -> None:
    pace = Pace(window=30)
    pace.check(waited=0, received=2**30)
    pace.check(waited=30, received=1)
    for _ in range(29):
        pace.check(waited=1, received=1)
    with pytest.raises(httpx.ReadTimeout, match="30 bytes"):
        pace.check(waited=1, received=1)


def test_just_fast_enough_is_fast_enough_for_ever() -> None:
    pace = Pace(window=30)
    for _ in range(1000):
        pace.check(waited=1, received=LEAST_BYTES_PER_SECOND)


async def test_no_more_connections_are_open_than_allowed(files: Files, target: Path) -> None:
    async with running(faces.hub({COMMIT: files})) as hub:

        def hold(request: Request) -> bool:
            later = ".safetensors" in request.target and request.range is not None and request.range[0] > 0
            if later and hub.held == 2:
                hub.released.set()
            return later

        hub.hold = hold
        await fetched(HUB, target, mirror=hub.url, connections=3)
    assert hub.most == 3
    assert held_by(target) == files


async def test_nothing_that_listens_is_told_with_the_number_of_tries(target: Path) -> None:
    async with running(lambda _: Reply()) as server:
        url = server.url
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1.*4 tries"):
        await fetched(HUB, target, mirror=url)


def test_pauses_double_up_to_half_a_minute_and_a_server_may_ask_for_longer() -> None:
    patience = Patience(attempts=20, delay=1.0)
    pauses = [patience.pause(failures, Transient("no")) for failures in range(1, 12)]
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:5]))
    assert max(pauses) <= 30
    assert patience.pause(1, Transient("wait", retry_after=60)) > 60
    assert patience.pause(1, Transient("wait", retry_after=1e9)) < 400
    with pytest.raises(DownloadFailed, match="20 tries"):
        patience.pause(20, Transient("no"))


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"},
        {"Retry-After": "soon"},
        {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"},
    ],
)
async def test_a_time_to_wait_may_be_a_date_or_nonsense(headers: dict[str, str], files: Files, target: Path) -> None:
    async with running(faces.hub({COMMIT: files})) as hub:
        hub.mischief = failing("resolve", 429, times=1, headers=headers)
        await fetched(HUB, target, mirror=hub.url)
    assert held_by(target) == files


async def test_sums_of_the_users_own_are_held(files: Files, target: Path, tmp_path: Path) -> None:
    from tests.wenxin_runtime.download.test_sources import sums_of

    sums = tmp_path / "SHA256SUMS"
    sums.write_bytes(b"# ours\n\n" + sums_of(files).replace(b"  config.json", b" *./config.json"))
    async with running(faces.web(files)) as server:
        source = f"{server.url}/models/tiny"
        await fetched(source, target, checksums=str(sums))
        assert held_by(target) == files
        sums.write_bytes(sums_of(files | {"config.json": b"another"}))
        with pytest.raises(ChecksumMismatch, match=r"config\.json"):
            await fetched(source, target.with_name("two"), checksums=str(sums))
        sums.write_bytes(sums_of({"config.json": b""}))
        with pytest.raises(ConfigError, match="has no line for"):
            await fetched(source, target.with_name("three"), checksums=str(sums))
        with pytest.raises(ConfigError, match="cannot be read"):
            await fetched(source, target.with_name("four"), checksums=str(tmp_path / "none"))


async def test_too_small_a_volume_is_refused_with_the_numbers_before_anything_is_fetched(
    files: Files, target: Path
) -> None:
    face = faces.hub({COMMIT: files})

    def huge(request: Request) -> Reply:
        if "tree" not in request.target:
            return face(request)
        entries = json.loads(face(request).body)
        for entry in entries:
            if "lfs" in entry:
                entry["lfs"]["size"] = 2**42
        return faces.as_json(entries)

    async with running(huge) as hub:
        with pytest.raises(NotEnoughSpace, match=r"needs [\d.]+ GB more of [\d.]+ GB.* free: enlarge it by at least"):
            await fetched(HUB, target, mirror=hub.url)
    assert not hub.asked("resolve")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A private authority's certificate, and a server context with one that it signed for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a company's own")])
    builder = x509.CertificateBuilder().issuer_name(root_name).not_valid_before(now - day).not_valid_after(now + day)
    root = (
        builder.subject_name(root_name)
        .public_key(root_key.public_key())
        .serial_number(1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        builder.subject_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(2)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(root.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + leaf.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context


async def test_a_private_authority_is_trusted_by_its_file(
    authority: tuple[Path, ssl.SSLContext], files: Files, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, context = authority
    async with running(faces.hub({COMMIT: files}), tls=context) as hub:
        with pytest.raises(InsecureSource, match="SSL_CERT_FILE"):
            await fetched(HUB, target, mirror=hub.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await fetched(HUB, target, mirror=hub.url)
        assert held_by(target) == files
        monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
        with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
            await fetched(HUB, target.with_name("two"), mirror=hub.url)


async def test_a_redirect_to_plain_http_is_followed_only_when_allowed(
    authority: tuple[Path, ssl.SSLContext], files: Files, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, context = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    revisions = {COMMIT: files}
    async with running(faces.cdn(revisions)) as cdn, running(faces.hub(revisions, cdn=cdn.url), tls=context) as hub:
        with pytest.raises(InsecureSource, match="--allow-http-redirects") as caught:
            await fetched(HUB, target, mirror=hub.url)
        assert "secret" not in str(caught.value)  # of the signed address
        await fetched(HUB, target, mirror=hub.url, allow_http_redirects=True)
    assert held_by(target) == files


async def test_a_proxy_of_the_environment_is_used_but_for_hosts_it_is_not_for(
    files: Files, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = faces.hub({COMMIT: files})

    def proxy(request: Request) -> Reply:
        return face(replace(request, target=request.target.removeprefix("http://hub.example")))

    async with running(proxy) as server, running(face) as hub:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        await fetched(HUB, target, mirror="http://hub.example")
        assert all(request.target.startswith("http://hub.example/") for request in server.requests)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        before = len(server.requests)
        await fetched(HUB, target.with_name("two"), mirror=hub.url)
        assert len(server.requests) == before
    assert held_by(target) == files
