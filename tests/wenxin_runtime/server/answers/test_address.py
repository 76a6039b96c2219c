"""Every kind of Redis that a URL names, each with real servers: found, lost, found again."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.redis_server import RedisServer, free_ports
from tests.wenxin_runtime.server.answers.test_store import Seen, found
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.server.answers import store as module
from wenxin_runtime.server.answers.address import Address
from wenxin_runtime.server.answers.store import RedisStore

SENTINEL = """\
sentinel monitor main 127.0.0.1 {port} 1
sentinel down-after-milliseconds main 300
sentinel failover-timeout main 2000
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """This machine may be busy, and a failover takes a moment."""
    monkeypatch.setattr(module, "_PROBE_AFTER_SECONDS", (0.05,))
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.5)


@contextlib.contextmanager
def running(directory: Path, *options: str, port: int, mode: tuple[str, ...] = ()) -> Iterator[RedisServer]:
    directory.mkdir()
    server = RedisServer(directory, port, mode)
    server.start(*options)
    try:
        yield server
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def connected(url: str, **more: str):
    seen = Seen()
    store = RedisStore(Address(url, **more), 100.0, seen)
    await store.connect(b"model")
    yield store, seen
    await store.close()


async def keeps(store: RedisStore, key: bytes) -> None:
    """Put an entry until it is there: what comes while Redis is away is not kept."""
    deadline = asyncio.get_running_loop().time() + 30
    while await store.get(key) is None:
        assert asyncio.get_running_loop().time() < deadline
        store.put(key, b"value")
        await asyncio.sleep(0.02)


async def test_sentinels_say_which_server_is_the_master_and_say_it_again_when_that_is_lost(tmp_path):
    first, second, sentinel = free_ports(3)
    (tmp_path / "sentinel.conf").write_text(SENTINEL.format(port=first))
    with (
        running(tmp_path / "first", port=first) as master,
        running(tmp_path / "second", "--replicaof", "127.0.0.1", str(first), port=second) as replica,
        running(tmp_path / "sentinel", port=sentinel, mode=(str(tmp_path / "sentinel.conf"), "--sentinel")) as told,
    ):
        with replica.client as client, told.client as watching:
            await until(lambda: client.info("replication")["master_link_status"] == "up")
            await until(lambda: watching.sentinel_master("main")["num-slaves"] == 1)
        away = free_ports(1)[0]
        async with connected(f"redis+sentinel://127.0.0.1:{away},127.0.0.1:{sentinel}/main") as (store, seen):
            await keeps(store, b"before")
            with replica.client as client:
                await until(client.dbsize)
            master.stop()
            assert await store.get(b"other") is None
            assert seen.is_open
            await until(lambda: not seen.is_open)
            assert await found(store, b"before") == b"value", "the replica had it, and is the master now"
            await keeps(store, b"after")


@pytest.fixture
def cluster(tmp_path) -> Iterator[list[RedisServer]]:
    """Three masters, and a replica of the first."""
    ports = free_ports(4)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0")
    with contextlib.ExitStack() as held:
        nodes = [held.enter_context(running(tmp_path / str(port), *options, port=port)) for port in ports]
        clients = [held.enter_context(node.client) for node in nodes]
        for number, client in enumerate(clients[:3]):
            client.execute_command(
                "CLUSTER ADDSLOTSRANGE", number * 5461, 16383 if number == 2 else number * 5461 + 5460
            )
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for port in ports[1:]:
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port)
        yield nodes


async def formed(nodes: list[RedisServer]) -> None:
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(node.client) for node in nodes]

        def well() -> bool:
            infos = [client.execute_command("CLUSTER INFO") for client in clients]
            return all(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "4" for info in infos)

        await until(well)
        first = clients[0].execute_command("CLUSTER MYID")
        clients[3].execute_command("CLUSTER REPLICATE", first)
        await until(lambda: clients[3].info("replication").get("master_link_status") == "up")


async def test_a_cluster_keeps_answers_on_all_its_nodes_and_a_lost_one_costs_no_request(cluster):
    await formed(cluster)
    keys = [str(number).encode() for number in range(12)]
    async with connected(f"redis+cluster://127.0.0.1:{cluster[1].port}") as (store, seen):
        for key in keys:
            await keeps(store, key)
        with contextlib.ExitStack() as held:
            assert all(held.enter_context(node.client).dbsize() for node in cluster[:3])
        with cluster[0].client as first, cluster[3].client as replica:
            await until(lambda: first.dbsize() == replica.dbsize())
        cluster[0].stop()
        assert [await store.get(key) for key in keys].count(None) > 0
        with cluster[3].client as client:
            await until(lambda: client.info("replication")["role"] == "master")
        for key in keys:
            assert await found(store, key) == b"value"
        await until(lambda: not seen.is_open)


def authority(directory: Path) -> Path:
    """A private authority and a server's certificate by it, as PEM files; returns the authority's."""
    now, key, own = dt.datetime.now(dt.UTC), ec.generate_private_key(ec.SECP256R1()), None
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])

    def certificate(subject: x509.Name, public, *more) -> x509.Certificate:
        builder = x509.CertificateBuilder(name, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=1))
        own_id = x509.SubjectKeyIdentifier.from_public_key(public)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        for extension, critical in ((own_id, False), (issuer, False), *more):
            builder = builder.add_extension(extension, critical)
        return builder.sign(key, hashes.SHA256())

    own = ec.generate_private_key(ec.SECP256R1())
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signing = x509.KeyUsage(*[False] * 5, True, True, False, False)
    server = certificate(x509.Name([]), own.public_key(), (here, True))
    root = certificate(name, key.public_key(), (x509.BasicConstraints(True, None), True), (signing, True))
    pem = serialization.Encoding.PEM
    (directory / "ca.crt").write_bytes(root.public_bytes(pem))
    (directory / "tls.crt").write_bytes(server.public_bytes(pem))
    private = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "tls.key").write_bytes(private)
    return directory / "ca.crt"


class WithTls(RedisServer):
    """Answers in TLS only, and only to a user with a password."""

    @property
    def client(self) -> redis.Redis:
        login = {"username": "cache", "password": "geheim"}
        ca = str(self.directory.parent / "ca.crt")
        return redis.Redis("127.0.0.1", self.port, ssl=True, ssl_ca_certs=ca, **login)


@pytest.fixture
def with_tls(tmp_path) -> Iterator[WithTls]:
    authority(tmp_path)
    directory, (port,) = tmp_path / "redis", free_ports(1)
    directory.mkdir()
    (directory / "users.acl").write_text("user default off\nuser cache on >geheim ~wenxin:* +get +set +unlink +ping\n")
    server = WithTls(directory, port)
    files = {"cert": "tls.crt", "key": "tls.key", "ca-cert": "ca.crt"}
    named = [word for kind, name in files.items() for word in (f"--tls-{kind}-file", str(tmp_path / name))]
    only_tls = ("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no")
    server.start(*only_tls, *named, "--aclfile", str(directory / "users.acl"))
    yield server
    server.stop()


async def test_a_private_authority_vouches_for_a_server_and_an_acl_user_may_do_what_a_cache_does(with_tls, tmp_path):
    place = f"127.0.0.1:{with_tls.port}"
    async with connected(f"rediss://cache:geheim@{place}", ca_file=str(tmp_path / "ca.crt")) as (store, seen):
        await keeps(store, b"1")
        store.drop(b"1")
        await until(lambda: not store._writes)
        assert await store.get(b"1") is None
        assert seen.errors == ["corrupt"]
    async with connected(f"rediss://cache:geheim@{place}?ssl_ca_certs={tmp_path / 'ca.crt'}") as (store, seen):
        assert await store.get(b"1") is None
        assert seen.errors == []


async def test_a_server_that_nobody_vouches_for_and_a_wrong_password_are_a_redis_that_is_away(with_tls, tmp_path):
    place, ca = f"127.0.0.1:{with_tls.port}", str(tmp_path / "ca.crt")
    for url, authorities in ((f"rediss://cache:geheim@{place}", ""), (f"rediss://cache:falsch@{place}", ca)):
        async with connected(url, ca_file=authorities) as (store, seen):
            assert await store.get(b"1") is None
            assert (seen.errors[0], seen.is_open) == ("connection", True)


async def test_a_url_in_a_file_may_come_late_and_change(redis_server, tmp_path):
    (other_port,) = free_ports(1)
    file, seen = tmp_path / "url", Seen()
    with running(tmp_path / "other", port=other_port) as other:
        store = RedisStore(Address(url_file=str(file)), 100.0, seen)
        await store.connect(b"model")
        assert (await store.get(b"1"), seen.is_open) == (None, True)
        file.write_text("nonsense")
        await until(lambda: store._url == "nonsense")
        file.write_text(redis_server.url + "\n")
        await until(lambda: not seen.is_open)
        await keeps(store, b"1")
        file.write_text(other.url)
        redis_server.stop()
        await store.get(b"1")
        await keeps(store, b"2")
        with other.client as client:
            assert client.dbsize() == 1
        await store.close()


def test_redis_is_there_with_all_that_these_stories_need():
    words = subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True).stdout
    assert int(words.partition("v=")[2].partition(".")[0]) >= 7
