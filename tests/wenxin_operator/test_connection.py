"""Who the operator is and where: kubeconfigs, service accounts, rotated tokens, TLS, selectors for kopf."""

import base64
import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator.cluster import Cluster, Retries
from wenxin_operator.connection import Count, Endpoint, KopfLists, Token, find, from_kubeconfig, in_cluster, resource_in
from wenxin_operator.errors import ConfigurationError, Forbidden, Unreachable
from wenxin_operator.names import CONFIG_MAP, WENXIN_MODEL


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Authority:
    """A certificate authority of our own, for TLS without a cluster."""

    folder: Path

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
        self.certificate = self._sign("ca", self.key.public_key(), authority=True)
        (self.folder / "ca.crt").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, common_name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(common_name, key.public_key())
        paths = self.folder / f"{common_name}.crt", self.folder / f"{common_name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        return paths

    def _sign(self, common_name: str, key: ec.EllipticCurvePublicKey, *, authority: bool = False) -> x509.Certificate:
        import ipaddress

        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]),
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - dt.timedelta(minutes=1),
            not_valid_after=now + dt.timedelta(hours=1),
        )
        usage = x509.KeyUsage(*([True] + [False] * 4 + [authority] * 2 + [False] * 2))
        subject_key = x509.SubjectKeyIdentifier.from_public_key(key)
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        for extension in (x509.BasicConstraints(authority, None), usage, subject_key, authority_key, address):
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def write_kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any], **context: Any) -> Path:
    config = {
        "current-context": "one",
        "contexts": [
            {"name": "other", "context": {}},
            {"name": "one", "context": {"cluster": "c", "user": "u", **context}},
        ],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_token_is_read_again_after_a_minute_and_when_asked(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "token"
    token = Token(file, clock)
    file.write_text("first\n")
    assert token() == "first"
    file.write_text("second")
    assert token() == "first"
    assert token(fresh=True) == "second"
    file.write_text("third")
    clock.seconds = 61
    assert token() == "third"


async def test_a_rotated_token_is_picked_up_at_once_when_the_old_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with FakeApi(token="old") as api:
        endpoint = Endpoint(server=api.url, token=Token(file))
        async with endpoint.session(timeout=5) as session:
            cluster = Cluster(session, api.url, identity="me")
            assert (await cluster.list(CONFIG_MAP, None)).items == []
            api.token = "new"
            with pytest.raises(Forbidden):
                await cluster.list(CONFIG_MAP, None)
            file.write_text("new")
            assert (await cluster.list(CONFIG_MAP, None)).items == []


async def test_a_token_of_a_kubeconfig_is_sent(tmp_path: Path) -> None:
    async with FakeApi(token="secret") as api:
        endpoint = from_kubeconfig(write_kubeconfig(tmp_path / "k", {"server": f"{api.url}/"}, {"token": "secret"}))
        assert endpoint.server == api.url
        assert endpoint.namespace == "default"
        async with endpoint.session(timeout=5) as session:
            assert (await Cluster(session, api.url, identity="me").list(CONFIG_MAP, None)).items == []


async def test_a_token_file_is_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("secret")
    async with FakeApi(token="secret") as api:
        kubeconfig = write_kubeconfig(tmp_path / "k", {"server": api.url}, {"tokenFile": "t"}, namespace="team")
        endpoint = from_kubeconfig(kubeconfig)
        assert endpoint.namespace == "team"
        async with endpoint.session(timeout=5) as session:
            assert (await Cluster(session, api.url, identity="me").list(CONFIG_MAP, None)).items == []


@pytest.fixture
def certified(authority: Authority) -> ssl.SSLContext:
    """A server that wants a client certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.folder / "ca.crt"))
    context.load_cert_chain(*authority.issue("server"))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve_tls(context: ssl.SSLContext) -> tuple[web.AppRunner, str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"items": [], "metadata": {"resourceVersion": "7"}})

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    return runner, f"https://127.0.0.1:{runner.addresses[0][1]}"


@pytest.mark.parametrize("inline", [True, False])
async def test_a_client_certificate_is_shown_and_the_servers_is_checked(
    authority: Authority, certified: ssl.SSLContext, *, inline: bool
) -> None:
    runner, url = await serve_tls(certified)
    certificate, key = authority.issue("admin")
    files = {"certificate-authority": authority.folder / "ca.crt", "client-certificate": certificate, "client-key": key}
    given = {
        (f"{name}-data" if inline else name): base64.b64encode(file.read_bytes()).decode() if inline else file.name
        for name, file in files.items()
    }
    trust = {name: value for name, value in given.items() if "authority" in name}
    user = {name: value for name, value in given.items() if "client" in name}
    endpoint = from_kubeconfig(write_kubeconfig(authority.folder / "k", {"server": url, **trust}, user))
    async with endpoint.session(timeout=5) as session:
        assert (await Cluster(session, url, identity="me").list(CONFIG_MAP, None)).version == "7"
    stranger = from_kubeconfig(write_kubeconfig(authority.folder / "s", {"server": url}, user))
    async with stranger.session(timeout=5) as session:
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await Cluster(session, url, identity="me", retries=Retries(attempts=1)).list(CONFIG_MAP, None)
    careless = {"server": url, "insecure-skip-tls-verify": True}
    async with from_kubeconfig(write_kubeconfig(authority.folder / "i", careless, user)).session(timeout=5) as session:
        assert (await Cluster(session, url, identity="me").list(CONFIG_MAP, None)).version == "7"
    await runner.cleanup()


def test_in_a_pod_the_service_account_is_used(authority: Authority) -> None:
    (authority.folder / "token").write_text("t")
    (authority.folder / "namespace").write_text("wenxin-system\n")
    endpoint = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, authority.folder)
    assert endpoint.server == "https://[fd00::1]:6443"
    assert endpoint.namespace == "wenxin-system"
    assert endpoint.token
    assert endpoint.token() == "t"


def test_a_given_kubeconfig_beats_the_environment_which_beats_home(tmp_path: Path) -> None:
    for name in ("given", "named"):
        write_kubeconfig(tmp_path / name, {"server": f"http://{name}"}, {})
    (tmp_path / ".kube").mkdir()
    write_kubeconfig(tmp_path / ".kube" / "config", {"server": "http://home"}, {})
    home = {"HOME": str(tmp_path)}
    named = {**home, "KUBECONFIG": str(tmp_path / "named")}
    assert find(tmp_path / "given", named).server == "http://given"
    assert find(None, named).server == "http://named"
    assert find(None, home).server == "http://home"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no current-context; choose one"),
        ("[a]", "AttributeError"),
        ("current-context: nowhere", "no context named nowhere"),
        ("{", "kubeconfig"),
        ("current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]", "no cluster named c"),
    ],
)
def test_a_broken_kubeconfig_is_an_error_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "broken").write_text(text)
    with pytest.raises(ConfigurationError, match=says) as raised:
        from_kubeconfig(tmp_path / "broken")
    assert str(tmp_path / "broken") in str(raised.value)


def test_a_missing_kubeconfig_or_certificate_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere does not exist"):
        find(tmp_path / "nowhere", {})
    user = {"client-certificate": "gone.crt", "client-key": "gone.key"}
    with pytest.raises(ConfigurationError, match=r"gone\.crt does not exist"):
        from_kubeconfig(write_kubeconfig(tmp_path / "k", {"server": "https://x"}, user))


def test_several_kubeconfigs_are_one_in_which_the_first_word_counts(tmp_path: Path) -> None:
    one = write_kubeconfig(tmp_path / "one", {"server": "http://first"}, {}, namespace="a")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "t").write_text("secret")
    more = {
        "current-context": "far",
        "contexts": [
            {"name": "one", "context": {"cluster": "far", "user": "far"}},
            {"name": "far", "context": {"cluster": "far", "user": "far", "namespace": "b"}},
        ],
        "clusters": [{"name": "far", "cluster": {"server": "http://far"}}],
        "users": [{"name": "far", "user": {"tokenFile": "t"}}],
    }
    (tmp_path / "below" / "more").write_text(yaml.safe_dump(more))
    several = {"KUBECONFIG": f"{tmp_path}/gone:{one}::{tmp_path}/below/more"}
    here, there = find(None, several), find(None, several, "far")
    assert (here.server, here.namespace, here.token) == ("http://first", "a", None)
    assert (there.server, there.namespace) == ("http://far", "b")
    assert there.token is not None
    assert there.token() == "secret"
    with pytest.raises(ConfigurationError, match="no context named nowhere"):
        find(None, several, "nowhere")
    with pytest.raises(ConfigurationError, match="gone does not exist"):
        find(None, {"KUBECONFIG": f"{tmp_path}/gone:{tmp_path}/gone-too"})


def test_a_login_by_plugin_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path / "k", {"server": "http://x"}, {"auth-provider": {"name": "gcp"}})
    with pytest.raises(ConfigurationError, match=r"auth-provider is not supported.*kubectl create token"):
        from_kubeconfig(path)


async def test_kopfs_lists_are_selected_cut_to_one_object_and_told() -> None:
    told: list[str] = []
    ours = "labelSelector=app.kubernetes.io/managed-by%3Dwenxin-operator"
    async with FakeApi() as api:
        selectors = {"configmaps": "app.kubernetes.io/managed-by=wenxin-operator", "wenxinmodels": ""}
        lists = KopfLists(selectors, told.append)
        async with Endpoint(server=api.url).session(lists, timeout=5) as session:
            for path in (
                "api/v1/configmaps",
                "api/v1/namespaces/x/configmaps",
                "api/v1/services",
                "api/v1/configmaps/one",
            ):
                await (await session.get(f"{api.url}/{path}")).read()
            models = f"{api.url}/apis/serving.wenxin.io/v1alpha1/wenxinmodels"
            await (await session.get(models)).read()
            (await session.get(f"{api.url}/api/v1/configmaps?watch=true&resourceVersion=100")).close()
            api.fail(1, 403)
            await (await session.get(models)).read()
        assert [each.query for each in api.requests] == [
            f"{ours}&limit=1", f"{ours}&limit=1", "", "", "limit=1", f"watch=true&resourceVersion=100&{ours}",
        ]  # fmt: skip
    assert told == ["configmaps", "configmaps", "wenxinmodels"]


async def test_each_answer_is_counted_and_so_is_none() -> None:
    told: list[tuple[str, str, int]] = []
    async with FakeApi() as api:
        count = Count(lambda *what: told.append(what))
        async with Endpoint(server=api.url).session(count, timeout=5) as session:
            cluster = Cluster(session, api.url, identity="me", retries=Retries(attempts=1))
            await cluster.list(WENXIN_MODEL, None)
            await cluster.read(CONFIG_MAP, "here", "it")
            api.down = True
            with pytest.raises(Unreachable):
                await cluster.read(CONFIG_MAP, "here", "it")
    assert told[:2] == [("GET", "wenxinmodels", 200), ("GET", "configmaps", 404)]
    assert set(told[2:]) == {("GET", "configmaps", 0)}  # aiohttp tries a broken kept connection once more


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api", "discovery"),
        ("/apis/apps/v1", "discovery"),
        ("/api/v1/pods", "pods"),
        ("/api/v1/namespaces", "namespaces"),
        ("/api/v1/namespaces/here", "namespaces"),
        ("/api/v1/namespaces/here/pods/it", "pods"),
        ("/apis/g/v1/namespaces/here/things/it/status", "things/status"),
    ],
)
def test_a_path_tells_its_resource(path: str, resource: str) -> None:
    assert resource_in(path) == resource
