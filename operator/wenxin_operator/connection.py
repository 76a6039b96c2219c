"""Where the API server is and who we are there: a kubeconfig or the pod's service account, as an aiohttp session.

A session carries middlewares, so kopf's watches and our own requests share one way to log in, and kopf's lists are kept
small (docs/adr/0007).
"""

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse

from wenxin_operator.errors import ConfigurationError
from wenxin_operator.exec_credential import ExecToken

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 60.0  # the kubelet rotates a token well before it expires; client-go looks again as often


class Token:
    """A bearer token out of a file, read again once a minute and when it was refused.

    Args:
        path: The file; it must exist when the token is first used.
        clock: Monotonic seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._value, self._read_at = "", float("-inf")

    def __call__(self, *, fresh: bool = False) -> str:
        """The token; `fresh` reads the file whatever the token's age."""
        if fresh or self._clock() - self._read_at >= TOKEN_SECONDS:
            self._value, self._read_at = self._path.read_text().strip(), self._clock()
        return self._value


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One API server and one identity.

    Attributes:
        server: Base URL without a trailing slash.
        tls: Trust and client certificate; None for plain HTTP.
        token: Gives the bearer token, if there is one.
        namespace: The one to use where none is named.
    """

    server: str
    tls: ssl.SSLContext | None = None
    token: Callable[..., str] | None = None
    namespace: str = "default"

    def session(self, *middlewares: ClientMiddlewareType, timeout: float) -> aiohttp.ClientSession:
        """A session that logs in as this identity. Proxies of the environment are not used.

        Args:
            middlewares: More of them, outermost first.
            timeout: Longest whole request in seconds; a watch brings its own.
        """
        login = (Bearer(self.token),) if self.token else ()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.tls or True, limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 10.0)),
            headers={"User-Agent": "wenxin-operator", "Accept": "application/json"},
            middlewares=(*middlewares, *login),
        )


class Bearer:
    """Adds the token to each request; one that was refused is sent once more with the token as the file has it now."""

    def __init__(self, token: Callable[..., str]) -> None:
        self._token = token

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        """The middleware."""
        sent = self._token()
        request.headers["Authorization"] = f"Bearer {sent}"
        response = await send(request)
        if response.status != 401 or (fresh := self._token(fresh=True)) == sent:
            return response
        response.close()
        request.headers["Authorization"] = f"Bearer {fresh}"
        return await send(request)


class Count:
    """Tells each answer: the method (WATCH for a watch), the resource in the path, and the status (0 for none).

    Args:
        tell: Takes the three.
    """

    def __init__(self, tell: Callable[[str, str, int], None]) -> None:
        self._tell = tell

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        """The middleware."""
        method = "WATCH" if "watch" in request.url.query else request.method
        status = 0
        try:
            response = await send(request)
            status = response.status
        finally:
            self._tell(method, resource_in(request.url.path), status)
        return response


class KopfLists:
    """Makes kopf's requests ours: a label selector on the server's side, and of a list no more than its version.

    kopf lists without pages before it watches. The store is filled by lists of our own, so one object is plenty: what
    kopf takes from it is the version at which its watch begins. `listed` is told of it, for whatever happened before
    that version is not watched, and calls for a list of our own.

    Args:
        selectors: Plural, as in the last part of the path, of each watched kind -> label selector, empty for all.
        listed: Takes the plural of a kind that kopf has listed.
    """

    def __init__(self, selectors: Mapping[str, str], listed: Callable[[str], None]) -> None:
        self._selectors, self._listed = selectors, listed

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        """The middleware."""
        plural = request.url.name
        if request.method != "GET" or plural not in self._selectors:
            return await send(request)
        lists = "watch" not in request.url.query
        chosen = {"labelSelector": self._selectors[plural]} if self._selectors[plural] else {}
        request.url = request.url.update_query(chosen | ({"limit": "1"} if lists else {}))
        response = await send(request)
        if lists and response.ok:
            self._listed(plural)
        return response


def resource_in(path: str) -> str:
    """The plural, and the subresource if there is one, that a path of the API is about; `discovery` for none."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:] if parts[0] == "apis" else []
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    return "/".join([rest[0], *rest[2:3]]) if rest else "discovery"


def find(kubeconfig: Path | None, environment: Mapping[str, str] = os.environ, context: str = "") -> Endpoint:
    """The endpoint: the given kubeconfig, those in $KUBECONFIG, the pod's service account, or ~/.kube/config.

    Args:
        kubeconfig: A file.
        environment: Variables.
        context: One of a kubeconfig's; empty for its current one.

    Raises:
        ConfigurationError: there is none, or it can not be used.
    """
    if kubeconfig:
        return from_kubeconfig(kubeconfig, context=context)
    if several := [Path(each) for each in environment.get("KUBECONFIG", "").split(os.pathsep) if each]:
        return from_kubeconfig(*several, context=context)
    if not context and environment.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").exists():
        return in_cluster(environment, SERVICE_ACCOUNT)
    return from_kubeconfig(Path(environment.get("HOME", "/")) / ".kube" / "config", context=context)


def in_cluster(environment: Mapping[str, str], account: Path) -> Endpoint:
    """The service account that Kubernetes mounts into a pod."""
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
    namespace = (account / "namespace").read_text().strip()
    return Endpoint(server=f"https://{host}:{port}", tls=tls, token=Token(account / "token"), namespace=namespace)


def from_kubeconfig(*paths: Path, context: str = "") -> Endpoint:
    """A context of kubeconfigs with a client certificate, a token, or a program that prints one.

    Args:
        paths: As kubectl merges them: what several say is as the first says it, and one of several may be missing.
        context: Its name; empty for the current one.

    Raises:
        ConfigurationError: it is missing or malformed, or logs in otherwise.
    """
    what = f"kubeconfig {os.pathsep.join(map(str, paths))}"
    try:
        there = [path for path in paths if path.exists()] or paths
        files = [_Kubeconfig(path, yaml.safe_load(path.read_text()) or {}) for path in there]
        chosen = context or next((name for each in files if (name := each.content.get("current-context"))), None)
        if chosen is None:
            raise ConfigurationError(f"{what}: it has no current-context; choose one with `kubectl config use-context`")
        place = _named(files, "context", chosen)
        cluster, user = _named(files, "cluster", place["cluster"]), _named(files, "user", place["user"])
        return Endpoint(
            server=cluster["server"].rstrip("/"),
            tls=_tls(cluster, user),
            token=_token(what, user),
            namespace=place.get("namespace", "default"),
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"{what}: {error.filename} does not exist") from None
    except (KeyError, TypeError, AttributeError, ValueError, OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{what}: {type(error).__name__}: {error}") from None


_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""Fields of a kubeconfig that name a file, from its own folder."""


@dataclass(frozen=True, slots=True)
class _Kubeconfig:
    path: Path
    content: Mapping[str, Any]

    def located(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The entry with its files found from this one's folder, and its program where it has a folder (client-go)."""
        found = {**entry} | {field: str(self.path.parent / entry[field]) for field in _FILES if field in entry}
        if "/" in str((entry.get("exec") or {}).get("command", "")):
            found["exec"] = {**entry["exec"], "command": str(self.path.parent / entry["exec"]["command"])}
        return found


def _named(files: Sequence[_Kubeconfig], what: str, name: str) -> dict[str, Any]:
    for each in files:
        for entry in each.content.get(f"{what}s") or ():
            if entry["name"] == name:
                return each.located(entry[what] or {})
    raise KeyError(f"no {what} named {name}")


def _token(what: str, user: Mapping[str, Any]) -> Callable[..., str] | None:
    if "exec" in user:
        return ExecToken(f"{what}: users[].user.exec", user["exec"])
    for plugin in ("auth-provider", "username"):
        if plugin in user:
            raise ConfigurationError(
                f"{what}: users[].user.{plugin} is not supported; use exec, a client certificate, a token, "
                "or `kubectl create token` of a service account"
            )
    if "tokenFile" in user:
        return Token(Path(user["tokenFile"]))
    if "token" in user:
        token = str(user["token"])
        return lambda *, fresh=False: token  # noqa: ARG005 - same signature as Token
    return None


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext | None:
    if cluster["server"].startswith("http://"):
        return None
    authority = _pem(cluster, "certificate-authority")
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate"), _pem(user, "client-key")
    if certificate and key:
        _load_chain(tls, certificate + b"\n" + key)
    return tls


def _pem(entry: Mapping[str, Any], field: str) -> bytes | None:
    """Inline data, or a file."""
    if f"{field}-data" in entry:
        return base64.b64decode(entry[f"{field}-data"])
    return Path(entry[field]).read_bytes() if field in entry else None


def _load_chain(tls: ssl.SSLContext, chain: bytes) -> None:
    """Python's ssl reads a key from a file only: a private one, gone at once."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(chain)
        file.flush()
        tls.load_cert_chain(file.name)
