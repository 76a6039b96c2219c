"""custom.metrics.k8s.io over HTTPS."""

import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from aiohttp import web

from wenxin_operator.errors import ApiError
from wenxin_operator.load_poller import Sample
from wenxin_operator.metrics_api import answers, callers, queries
from wenxin_operator.metrics_api.answers import METRICS, Value
from wenxin_operator.metrics_api.callers import Caller, FrontProxy, Reviews
from wenxin_operator.metrics_api.certificates import Credentials
from wenxin_operator.metrics_api.queries import EVERY, GROUP, PODS, VERSIONS, MetricQuery
from wenxin_operator.names import POD, Raw
from wenxin_operator.store import labels_of

logger = logging.getLogger(__name__)

OPEN = frozenset({"/healthz", "/livez", "/readyz"})
"""Paths that anybody may ask, as of an API server."""


class Pods(Protocol):
    """The part of the store that is read here."""

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """One object."""
        ...

    def all(self, kind: str, namespace: str) -> Sequence[Raw]:
        """All objects of a kind in a namespace."""
        ...


class Samples(Protocol):
    """The part of the poller that is read here."""

    def sample(self, pod: Raw) -> Sample | None:
        """What the pod said last."""
        ...

    def age(self, sample: Sample) -> float:
        """Seconds since."""
        ...


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """A request that gets an error."""

    code: int
    message: str


class MetricsApi:
    """What the API answers; `listen` and `exchange` say where and as whom.

    Args:
        pods: What is known.
        samples: What they said.
        reviews: Who may ask.
        counted: Told the status of each answer.
    """

    def __init__(self, pods: Pods, samples: Samples, reviews: Reviews, counted: Callable[[int], None]) -> None:
        self._pods, self._samples, self._reviews, self._counted = pods, samples, reviews, counted
        self._front: FrontProxy | None = None
        self._socket: socket.socket | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None

    async def listen(self, host: str, port: int) -> int:
        """Take the port; connections wait until there is a certificate.

        Returns:
            The port, which is another where 0 was asked for.
        """
        self._socket = socket.create_server((host, port), backlog=128)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        return int(self._socket.getsockname()[1])

    async def exchange(self, held: Credentials, front: FrontProxy) -> None:
        """Serve another certificate, or trust another front proxy, from the next connection on.

        Connections that are open go on; those that come meanwhile wait at the socket, which stays.
        """
        if self._runner is None or self._socket is None:
            raise RuntimeError("nothing listens")
        context = _context(held, front)
        if self._site:
            await self._site.stop()
        self._front = front
        self._site = web.SockSite(self._runner, self._socket.dup(), ssl_context=context)
        await self._site.start()

    async def close(self) -> None:
        """End."""
        if self._runner:
            await self._runner.cleanup()
        if self._socket:
            self._socket.close()

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            response = await self._judged(request)
        except Refused as refused:
            body = answers.status(refused.code, refused.message)
            response = web.json_response(body, status=refused.code)
        self._counted(response.status)
        return response

    async def _judged(self, request: web.Request) -> web.Response:
        if request.path in OPEN:
            return web.Response(text="ok")
        query = queries.parse(request.path)
        try:
            caller = await self._caller(request)
            allowed = await self._reviews.allows(caller, callers.about(query, request.path))
        except ApiError as error:
            logger.warning("the API server does not say who may ask for metrics: %s", error)
            raise Refused(503, "the API server does not say who you are or what you may do") from None
        if not allowed:
            raise Refused(403, f"{caller.user} may not get {request.path}")
        if request.method != "GET":
            raise Refused(405, f"{request.method} is not supported: metrics can only be read")
        if query:
            return web.json_response(self._values(query, request.query))
        return web.json_response(_document(request.path))

    async def _caller(self, request: web.Request) -> Caller:
        front = self._front
        found = callers.behind(front, callers.certificate_of(request), request.headers) if front else None
        if found is None and (token := callers.token_of(request.headers)):
            found = await self._reviews.owner(token)
        if found is None:
            raise Refused(401, "Unauthorized")
        return found

    def _values(self, query: MetricQuery, parameters: Mapping[str, str]) -> answers.Document:
        if query.resource != PODS or query.metric not in METRICS:
            known = ", ".join(METRICS)
            raise Refused(404, f"there is no metric {query.metric} of {query.resource}; of pods there are {known}")
        about_metric = _selector(parameters.get("metricLabelSelector", ""))
        chosen = self._chosen(query, parameters.get("labelSelector", ""))
        # No metric has labels of its own.
        found = list(self._found(query, chosen)) if about_metric({}) else []
        if not found and query.name != EVERY:
            raise Refused(404, f"pod {query.name} is not asked, or did not say how busy it is")
        return answers.values(query.version, query.metric, found)

    def _chosen(self, query: MetricQuery, text: str) -> Iterator[Raw]:
        selects = _selector(text)
        if query.name != EVERY:
            pod = self._pods.get(POD, query.namespace, query.name)
            return iter((pod,) if pod else ())
        return (pod for pod in self._pods.all(POD, query.namespace) if selects(labels_of(pod)))

    def _found(self, query: MetricQuery, chosen: Iterator[Raw]) -> Iterator[Value]:
        now = datetime.now(UTC)
        for pod in chosen:
            if sample := self._samples.sample(pod):
                at = now - timedelta(seconds=self._samples.age(sample))
                value = METRICS[query.metric](sample.load)
                yield Value(pod["metadata"]["name"], query.namespace, value, at)


def _selector(text: str) -> Callable[[queries.Labels], bool]:
    try:
        return queries.selector(text)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def _document(path: str) -> answers.Document:
    """A discovery document."""
    match path.strip("/").split("/"):
        case ["apis"]:
            return answers.groups()
        case ["apis", group] if group == GROUP:
            return answers.group()
        case ["apis", group, version] if group == GROUP and version in VERSIONS:
            return answers.resources(version)
    raise Refused(404, "the server could not find the requested resource")


def _context(held: Credentials, front: FrontProxy) -> ssl.SSLContext:
    """Who shows a certificate must have it from the front proxy's authority; who shows none must have a token."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=front.authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    with _nameless(held.certificate + held.key) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _nameless(content: bytes) -> Iterator[str]:
    """The path of a file in memory: Python's ssl reads a key from nothing else, and our pods can write to no disk."""
    descriptor = os.memfd_create("metrics-api")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
