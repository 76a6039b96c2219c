"""HTTP as every route sees it: JSON out, a bounded body in, OpenAI error bodies, request ids, the access log."""

import logging
import re
import secrets
from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wenxin_runtime.errors import RequestError, RequestTooLarge
from wenxin_runtime.server.exchange import Exchange
from wenxin_runtime.server.generation import ClientGone
from wenxin_runtime.server.service import Service, Stage
from wenxin_runtime.telemetry import CLIENT_LEFT

access_log = logging.getLogger("wenxin_runtime.access")

# Neither an id nor a path can forge a field or a line of the log: ids have no spaces, paths are logged as sent.
_DECENT_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
_PROBES = ("/health", "/ping", "/load", "/metrics", "/v2/health")
_TRACE_HEADERS = ("traceparent", "tracestate")

encode_json = msgspec.json.Encoder().encode


class ErrorDetail(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error body."""

    error: ErrorDetail


def is_decent_id(given: str) -> bool:
    """Say whether a client's request id may stand in the log."""
    return _DECENT_ID.fullmatch(given) is not None


def error_body(error: RequestError) -> ErrorBody:
    """Spell `error` as OpenAI does."""
    return ErrorBody(ErrorDetail(error.message, error.type, error.param, error.code))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with `value` as JSON."""
    return Response(encode_json(value), status, headers, media_type="application/json")


def error_response(error: RequestError) -> Response:
    """Answer with an OpenAI error body."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if isinstance(error, RequestTooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    return json_response(error_body(error), error.status, headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an unknown route or a wrong method in OpenAI's shape."""
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    message = "unknown route" if status == 404 else "method not allowed" if status == 405 else "request refused"
    detail = ErrorDetail(f"{message}: {request.method} {request.url.path}", "invalid_request_error")
    return json_response(ErrorBody(detail), status, dict(headers or {}))


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """Read the request's body.

    Raises:
        RequestTooLarge: it is longer than `limit_bytes`.
        ClientGone: the client went away before it was complete.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        size += len(message.get("body", b""))
        if size > limit_bytes:
            raise RequestTooLarge(f"the request's body is larger than {limit_bytes} bytes (--max-request-bytes)")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


class Envelope:
    """What every exchange gets: a request id, `Connection: close` while the server leaves, and a record of its end.

    The id is the client's X-Request-Id, if it brings a decent one. No record holds a query or a body.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange. There are no other scopes: websockets and lifespan are switched off."""
        exchange = scope["state"]["exchange"] = _begun(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(exchange)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._tell(exchange)

    def _headers(self, exchange: Exchange) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", exchange.id.encode()
        if exchange.cache is not None:
            yield b"x-wenxin-cache", exchange.cache.encode()
        if self._service.stage is not Stage.SERVING:
            yield b"connection", b"close"

    def _tell(self, exchange: Exchange) -> None:
        if exchange.path.startswith(_PROBES):
            access_log.debug("%s", exchange.line())
            return
        access_log.info("%s", exchange.line())
        self._service.metrics.responses.labels(str(exchange.status or CLIENT_LEFT)).inc()
        self._service.over(exchange)


def _begun(scope: Scope) -> Exchange:
    headers = Headers(scope=scope)
    given = headers.get("x-request-id")
    return Exchange(
        id=given if given and is_decent_id(given) else secrets.token_hex(16),
        method=scope["method"],
        path=scope["raw_path"].decode("ascii", "backslashreplace"),
        trace_context={name: headers[name] for name in _TRACE_HEADERS if name in headers},
    )
