"""The routes of /v2 that generate: /infer, and Triton's /generate and /generate_stream."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.responses import Response as HttpResponse
from starlette.types import Receive, Scope, Send

from wenxin_runtime.errors import InvalidRequest, RequestError
from wenxin_runtime.server.answering import mistake, opened, watched
from wenxin_runtime.server.generation import ClientGone
from wenxin_runtime.server.http import encode_json, json_response, read_body
from wenxin_runtime.server.kserve import json_format
from wenxin_runtime.server.kserve.inference import Inference, Response
from wenxin_runtime.server.kserve.json_format import LENGTH_HEADER, Asked
from wenxin_runtime.server.service import Service

_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def refusal(error: RequestError) -> HttpResponse:
    """Answer with the protocol's error body."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    return json_response({"error": error.message}, error.status, headers)


class InferEndpoint:
    """An ASGI app for one of the three; whatever happens, a request has exactly one ending."""

    def __init__(self, service: Service, kind: Literal["infer", "generate", "generate_stream"]) -> None:
        self._service = service
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["state"]["exchange"].operation = "text_completion"
        try:
            await self._exchange(scope, receive, send)
        except ClientGone:
            return
        except RequestError as error:
            await self._refuse(error, scope, receive, send)
        except Exception as error:  # noqa: BLE001 - logged; one request's failure must leave the others alone
            await self._refuse(mistake(error), scope, receive, send)

    async def _refuse(self, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["exchange"].error = error.code or error.type
        await refusal(error)(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, exchange, headers = self._service, scope["state"]["exchange"], Headers(scope=scope)
        model = service.accepting()
        body = await read_body(receive, service.config.max_request_bytes)
        asked = self._read(body, headers, scope["path_params"])
        streams = self._kind == "generate_stream"
        inference = await Inference.of(asked.request, service, model, pieces=streams, stream=streams)
        plan = exchange.plan = inference.plan
        with await opened(service, plan, exchange, headers) as generation:
            exchange.timelines = generation.timelines
            answers = inference.responses(generation, exchange.cache)
            async with watched(receive, generation), contextlib.aclosing(answers) as responses:
                if streams:
                    await _stream(responses, exchange, send)
                else:
                    await self._whole(await anext(responses), asked, send)

    def _read(self, body: bytes, headers: Headers, path: dict[str, str]) -> Asked:
        if headers.get("content-encoding", "identity") != "identity":
            raise InvalidRequest("a compressed body (Content-Encoding) is not supported by this server")
        model, version = path["model"], path.get("version", "")
        if self._kind == "infer":
            return json_format.read_infer(body, headers.get(LENGTH_HEADER), model, version)
        return Asked(json_format.read_generate(body, model, version), frozenset(), binary_default=False)

    async def _whole(self, response: Response, asked: Asked, send: Send) -> None:
        if self._kind == "infer":
            content, header_length = json_format.write_infer(response, asked)
        else:
            content, header_length = json_format.write_generate(response), None
        kind = b"application/json" if header_length is None else b"application/octet-stream"
        headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
        if header_length is not None:
            headers.append((LENGTH_HEADER.lower().encode(), str(header_length).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def _stream(responses: AsyncIterator[Response], exchange: Any, send: Send) -> None:
    # The status is sent with the first piece, so that a failure before it still has a status of its own.
    first = await anext(responses)
    await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
    await send(_event(json_format.write_generate(first)))
    ending = b""
    try:
        async for response in responses:
            await send(_event(json_format.write_generate(response)))
    except ClientGone:
        raise
    except Exception as error:  # noqa: BLE001 - a mistake is logged; the stream still has to end
        told = error if isinstance(error, RequestError) else mistake(error)
        exchange.error = told.code or told.type
        ending = _event(encode_json({"error": told.message}))["body"]
    await send({"type": "http.response.body", "body": ending, "more_body": False})


def _event(content: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + content + b"\n\n", "more_body": True}
