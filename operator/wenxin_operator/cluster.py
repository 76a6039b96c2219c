"""Reading and writing the API: raw JSON over one aiohttp session. Decides nothing.

Children are written by server-side apply under one field manager with force: what the operator plans, it owns. Each
write that succeeds is told to `written`, so that the store is never behind the operator's own hand.
"""

import asyncio
import json
import random
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from wenxin_operator import load
from wenxin_operator.errors import ApiError, Cause, Conflict, Forbidden, Gone, Invalid, NotFound, Unreachable
from wenxin_operator.event_recorder import EventRecorder
from wenxin_operator.events import Event
from wenxin_operator.names import FIELD_MANAGER, HELM, RESOURCES, Raw, path_of, selector_of

Object = dict[str, Any]
Written = Callable[[str, Object], None]

PAGE = 500
_PASSWORD_BYTES = 24
JSON = "application/json"
APPLY = "application/apply-patch+yaml"  # JSON is YAML
MERGE = "application/merge-patch+json"
RETRIED = frozenset({429, 500, 502, 503, 504})
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

_ERRORS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: Invalid,
    422: Invalid,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a request is sent again after 429, 5xx or no answer, and how long it waits in between (seconds)."""

    attempts: int = 4
    first_wait: float = 0.5
    longest_wait: float = 10.0

    def wait(self, attempt: int, retry_after: str | None) -> float:
        """Seconds to wait after attempt number `attempt` (from 0); the server's wish is a minimum."""
        backoff = min(self.longest_wait, self.first_wait * 2.0**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        wished = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        return min(self.longest_wait, max(backoff, wished))


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind as of one version of the store behind the API."""

    items: list[Object]
    version: str


class Cluster:
    """The API, as this operator uses it: the pass's Writer, the store's lists, the elector's lease.

    Args:
        session: Logged in (`connection.Endpoint.session`).
        server: Base URL.
        identity: This copy, in events.
        retries: What to do about an API server that is busy or away.
        written: Told the kind of, and each object that a write returned.
        deleted: Told the kind of, and each object that was deleted, as it was known.
        pods: A plain session that pods are asked with; None asks none.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server: str,
        *,
        identity: str,
        retries: Retries | None = None,
        written: Written = lambda _kind, _object: None,
        deleted: Written = lambda _kind, _object: None,
        pods: aiohttp.ClientSession | None = None,
    ) -> None:
        self._session, self._server, self._pods = session, server, pods
        self._retries, self._written, self._deleted = retries or Retries(), written, deleted
        self._recorder = EventRecorder(self._send_event, identity=identity)

    async def list(
        self,
        kind: str,
        namespace: str | None,
        keep: Callable[[Raw], Raw] = lambda thing: thing,
        selector: str | None = None,
    ) -> Listing:
        """Every object of a kind in a namespace, or in the cluster; page by page, one consistent version.

        Args:
            kind: The kind.
            namespace: The namespace; None for all.
            keep: Makes of each object what is kept of it, while no more than its page is in memory.
            selector: Of labels; None is the kind's own, as it is watched.

        Raises:
            ApiError: the list is not to be had.
        """
        chosen = selector_of(kind) if selector is None else selector
        query = {"limit": str(PAGE)} | ({"labelSelector": chosen} if chosen else {})
        typed = {"apiVersion": RESOURCES[kind].api_version, "kind": kind}  # items of a list do not say what they are
        items: list[Object] = []
        token = ""
        while True:
            try:
                page = await self._request(
                    "GET", path_of(kind, namespace), query | ({"continue": token} if token else {})
                )
            except Gone:
                if not token:
                    raise
                items, token = [], ""  # paging took longer than the API server keeps a version: from the start
                continue
            items += [keep(typed | item) for item in page.get("items") or ()]
            token = page["metadata"].get("continue") or ""
            if not token:
                return Listing(items, page["metadata"]["resourceVersion"])

    async def read(self, kind: str, namespace: str, name: str) -> Raw | None:
        """See reconcile.Writer."""
        try:
            return await self._request("GET", path_of(kind, namespace, name))
        except NotFound:
            return None

    async def apply(self, manifest: Raw) -> Raw:
        """See reconcile.Writer.

        Raises:
            ApiError: Invalid with the fields at fault, Conflict when a uid is given and another has the name.
        """
        metadata = manifest["metadata"]
        return await self._apply(path_of(manifest["kind"], metadata["namespace"], metadata["name"]), manifest)

    async def make_once(self, manifest: Raw) -> None:
        """See reconcile.Writer."""
        drawn = secrets.token_hex(_PASSWORD_BYTES)
        values = {name: value.replace("PASSWORD", drawn) for name, value in manifest["stringData"].items()}
        with suppress(Conflict):  # there is one
            await self._request(
                "POST",
                path_of(manifest["kind"], manifest["metadata"]["namespace"]),
                {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
                body={**manifest, "stringData": values},
            )

    async def overwrite(self, manifest: Raw) -> Raw:
        """See reconcile.Writer."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        path = path_of(kind, metadata["namespace"], metadata["name"])
        result = await self._request("PATCH", path, query, body=manifest, content=MERGE)
        self._written(kind, result)
        return result

    async def apply_status(self, resource: Raw, status: Raw) -> Raw:
        """See reconcile.Writer.

        Raises:
            ApiError: NotFound when it is gone, Conflict when another took its name.
        """
        kind = resource["kind"]
        metadata = {field: resource["metadata"][field] for field in ("namespace", "name", "uid")}
        manifest = {"apiVersion": resource["apiVersion"], "kind": kind, "metadata": metadata, "status": status}
        return await self._apply(path_of(kind, metadata["namespace"], metadata["name"], "status"), manifest)

    async def delete(self, target: Raw) -> None:
        """See reconcile.Writer."""
        metadata = target["metadata"]
        options = {"propagationPolicy": "Background", "preconditions": {"uid": metadata["uid"]}}
        with suppress(NotFound, Conflict):  # gone, or replaced by another of its name: either way this one is no more
            await self._request(
                "DELETE", path_of(target["kind"], metadata["namespace"], metadata["name"]), body=options
            )
        # The next pass may come before the watch tells, and must not choose among what is no more.
        self._deleted(target["kind"], target)

    async def emit(self, event: Event) -> None:
        """See reconcile.Writer."""
        await self._recorder.emit(event)

    async def annotate(self, thing: Raw, annotations: Mapping[str, str]) -> None:
        """See reconcile.Writer."""
        kind, metadata = thing["kind"], thing["metadata"]
        patch = {"metadata": {"uid": metadata["uid"], "annotations": dict(annotations)}}
        path = path_of(kind, metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER}
        self._written(kind, await self._request("PATCH", path, query, body=patch, content=MERGE))

    async def ask(self, pod: Raw) -> Any:
        """See reconcile.Writer."""
        return await load.words(self._pods, pod) if self._pods else None

    async def send(self, method: str, path: str, *, body: Object | None = None, content: str = JSON) -> Object:
        """A request about what is no child of ours, such as a review; safe to repeat, and repeated while that may help.

        Raises:
            ApiError: the answer is none, or an error.
        """
        return await self._request(method, path, body=body, content=content)

    async def read_lease(self, namespace: str, name: str) -> Object:
        """See lease.Leases."""
        return await self._request("GET", f"{_leases(namespace)}/{name}", attempts=1)

    async def create_lease(self, lease: Object) -> Object:
        """See lease.Leases."""
        return await self._request("POST", _leases(lease["metadata"]["namespace"]), body=lease, attempts=1)

    async def replace_lease(self, lease: Object) -> Object:
        """See lease.Leases."""
        path = f"{_leases(lease['metadata']['namespace'])}/{lease['metadata']['name']}"
        return await self._request("PUT", path, body=lease, attempts=1)

    async def read_definition(self, name: str) -> Raw | None:
        """See definitions.Definitions."""
        try:
            return await self._request("GET", f"{_DEFINITIONS}/{name}")
        except NotFound:
            return None

    async def apply_definition(self, manifest: Raw) -> Raw:
        """See definitions.Definitions."""
        return await self._apply(f"{_DEFINITIONS}/{manifest['metadata']['name']}", manifest, HELM)

    async def _apply(self, path: str, manifest: Raw, manager: str = FIELD_MANAGER) -> Raw:
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        result = await self._request("PATCH", path, query, body=manifest, content=APPLY)
        self._written(manifest["kind"], result)
        return result

    async def _send_event(self, method: str, path: str, body: Object) -> Object:
        return await self._request(method, path, body=body, content=MERGE if method == "PATCH" else JSON, attempts=1)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        content: str = JSON,
        attempts: int | None = None,
    ) -> Object:
        """Send, and send again while that may help: what has more than one attempt is safe to repeat."""
        attempts = attempts or self._retries.attempts
        for attempt in range(attempts):
            try:
                return await self._send(method, path, query, body, content)
            except Unreachable as error:
                if attempt == attempts - 1:
                    raise
                await asyncio.sleep(self._retries.wait(attempt, error.retry_after))
        raise AssertionError("at least one attempt")

    async def _send(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Object | None, content: str
    ) -> Object:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": content} if data else None
        try:
            async with self._session.request(
                method, self._server + path, params=query, data=data, headers=headers
            ) as response:
                answer = _decoded(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Unreachable(f"{method} {path}: {str(failure) or type(failure).__name__}") from failure
        if response.status >= 400:
            raise _error(response, answer, f"{method} {path}")
        return answer


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def _decoded(raw: bytes) -> Object:
    try:
        answer = json.loads(raw)
    except ValueError:  # a proxy's page in front of an API server that is away
        answer = None
    return answer if isinstance(answer, dict) else {"message": raw[:200].decode(errors="replace")}


# An apply of a field that is in no schema is answered 500: https://github.com/kubernetes/kubernetes/issues/122480
_UNKNOWN_FIELD = re.compile(r"failed to create typed patch object \(.*?\): \.(?P<field>\S+): (?P<why>.+)", re.DOTALL)


def _error(response: aiohttp.ClientResponse, answer: Object, request: str) -> ApiError:
    """The answer as one of our errors; `answer` is a metav1.Status if the API server itself wrote it."""
    message = f"{request}: {answer.get('message') or response.reason}"
    if unknown := _UNKNOWN_FIELD.search(message):
        return Invalid(message, status=response.status, causes=(Cause(unknown["field"], unknown["why"]),))
    if response.status in RETRIED:
        return Unreachable(message, status=response.status, retry_after=response.headers.get("Retry-After"))
    causes = (answer.get("details") or {}).get("causes") or ()
    return _ERRORS.get(response.status, ApiError)(
        message,
        status=response.status,
        reason=answer.get("reason") or "",
        causes=tuple(Cause(cause.get("field", ""), cause.get("message", "")) for cause in causes),
    )
