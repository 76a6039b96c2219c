"""Who asks the metrics API, and may they: delegated to the API server, as every aggregated API does.

The API server proxies requests with a client certificate of its own and says in headers on whose behalf. What else
comes has a token, which it reviews. What a caller may do it reviews too; its answers are kept for seconds.
"""

import hashlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDictProxy

from wenxin_operator.metrics_api.queries import GROUP, MetricQuery

Document = dict[str, Any]
Send = Callable[..., Awaitable[Document]]
"""Cluster.send."""

_K = TypeVar("_K")
_V = TypeVar("_V")

KEPT_SECONDS = 10.0
"""How long a review counts: what an API server of Kubernetes does itself."""
KEPT_AT_MOST = 1000
MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
ANONYMOUS = "system:anonymous"


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """How the API server proves itself, and says whom it asks for; ConfigMap extension-apiserver-authentication.

    Attributes:
        authority: What its client certificate is issued by, PEM.
        names: Which common names it may have; empty for any.
        user: Headers with the user's name; the first that is there counts.
        uid: The same with the user's uid.
        groups: Headers whose values are groups.
        extra: Prefixes of headers with more about the user.
    """

    authority: str
    names: frozenset[str]
    user: tuple[str, ...]
    uid: tuple[str, ...]
    groups: tuple[str, ...]
    extra: tuple[str, ...]

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> Self:
        """Read the ConfigMap's data.

        Raises:
            ValueError: there is no authority, or a list is none.
        """
        if not data.get("requestheader-client-ca-file"):
            raise ValueError("the API server has no requestheader-client-ca-file: it aggregates no APIs")

        def listed(name: str) -> tuple[str, ...]:
            return tuple(map(str, json.loads(data.get(f"requestheader-{name}") or "[]")))

        return cls(
            authority=data["requestheader-client-ca-file"],
            names=frozenset(listed("allowed-names")),
            user=listed("username-headers"),
            uid=listed("uid-headers"),
            groups=listed("group-headers"),
            extra=listed("extra-headers-prefix"),
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def spec(self) -> Document:
        """As a SubjectAccessReview says it."""
        extra = {key: list(values) for key, values in self.extra}
        return {"user": self.user, "uid": self.uid, "groups": list(self.groups), "extra": extra}


def behind(front: FrontProxy, certificate: Mapping[str, Any] | None, headers: CIMultiDictProxy[str]) -> Caller | None:
    """Whom the API server asks for; None where nobody has proved to be it.

    Args:
        front: How it proves itself.
        certificate: The client's, which TLS has verified, as ssl.SSLSocket.getpeercert says it.
        headers: The request's.
    """
    if not certificate or (front.names and not front.names & _common_names(certificate)):
        return None
    user = next((headers[name] for name in front.user if headers.get(name)), None)
    if user is None:
        return None
    uid = next((headers[name] for name in front.uid if headers.get(name)), "")
    groups = [value for name in front.groups for value in headers.getall(name, ())]
    # The API server names no group of itself when it asks for discovery: whoever is known is authenticated.
    groups += [] if user == ANONYMOUS or AUTHENTICATED in groups else [AUTHENTICATED]
    return Caller(user, uid, tuple(groups), _extra(front, headers))


def _common_names(certificate: Mapping[str, Any]) -> frozenset[str]:
    pairs = (pair for part in certificate.get("subject", ()) for pair in part)
    return frozenset(value for key, value in pairs if key == "commonName")


def _extra(front: FrontProxy, headers: CIMultiDictProxy[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, list[str]] = {}
    for name, value in headers.items():
        for prefix in front.extra:
            if name.lower().startswith(prefix.lower()):
                found.setdefault(unquote(name[len(prefix) :].lower()), []).append(value)
    return tuple((key, tuple(values)) for key, values in sorted(found.items()))


class Reviews:
    """Asks the API server who has a token and who may do what, and remembers for a while.

    Args:
        send: Takes reviews to the API server.
        clock: Monotonic seconds.
    """

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._callers: dict[str, tuple[float, Caller | None]] = {}  # by the token's hash
        self._verdicts: dict[tuple[Caller, str], tuple[float, bool]] = {}

    async def owner(self, token: str) -> Caller | None:
        """Who has the token; None for nobody.

        Raises:
            ApiError: the API server does not say.
        """
        key = hashlib.sha256(token.encode()).hexdigest()
        if (known := self._callers.get(key)) and self._clock() < known[0]:
            return known[1]
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        answer = await self._send("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=review)
        caller = _reviewed(answer.get("status") or {})
        _keep(self._callers, key, (self._clock() + KEPT_SECONDS, caller))
        return caller

    async def allows(self, caller: Caller, attributes: Document) -> bool:
        """Whether the caller may.

        Args:
            caller: Who.
            attributes: What: resourceAttributes or nonResourceAttributes.

        Raises:
            ApiError: the API server does not say.
        """
        if MASTERS in caller.groups:
            return True
        key = (caller, json.dumps(attributes, sort_keys=True))
        if (known := self._verdicts.get(key)) and self._clock() < known[0]:
            return known[1]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**caller.spec(), **attributes},
        }
        answer = await self._send("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=review)
        verdict = (answer.get("status") or {}).get("allowed") is True
        _keep(self._verdicts, key, (self._clock() + KEPT_SECONDS, verdict))
        return verdict


def about(query: MetricQuery | None, path: str) -> Document:
    """What a request wants to do, as a review asks it."""
    if query is None:
        return {"nonResourceAttributes": {"path": path, "verb": "get"}}
    return {
        "resourceAttributes": {
            "verb": "get",
            "group": GROUP,
            "version": query.version,
            "namespace": query.namespace,
            "resource": query.resource,
            "name": query.name,
            "subresource": query.metric,
        }
    }


def certificate_of(request: web.Request) -> Mapping[str, Any] | None:
    """The client's certificate, which TLS has verified; None where it showed none."""
    transport = request.transport
    secured = transport.get_extra_info("ssl_object") if transport else None
    return secured.getpeercert() if isinstance(secured, ssl.SSLObject) else None


def token_of(headers: CIMultiDictProxy[str]) -> str | None:
    """The bearer token of a request."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _reviewed(status: Document) -> Caller | None:
    user = status.get("user") or {}
    if status.get("authenticated") is not True or not user.get("username"):
        return None
    extra = tuple((key, tuple(values)) for key, values in sorted((user.get("extra") or {}).items()))
    return Caller(user["username"], user.get("uid", ""), tuple(user.get("groups") or ()), extra)


def _keep(kept: dict[_K, _V], key: _K, value: _V) -> None:
    """Callers choose their tokens and paths: what is kept of them is bounded."""
    if len(kept) >= KEPT_AT_MOST:
        kept.clear()
    kept[key] = value
