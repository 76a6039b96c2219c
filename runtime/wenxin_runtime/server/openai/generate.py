"""The exchange of a generating endpoint: admit, then stream or collect, and notice a client that leaves."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from wenxin_runtime.errors import RequestError
from wenxin_runtime.server.answering import mistake, opened, watched
from wenxin_runtime.server.generation import ClientGone
from wenxin_runtime.server.http import encode_json, error_body, error_response, read_body
from wenxin_runtime.server.openai.answer import Answer
from wenxin_runtime.server.openai.piece import Piece
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.server.openai.responses import Usage
from wenxin_runtime.server.served_model import ServedModel
from wenxin_runtime.server.service import Service

_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_JSON = [(b"content-type", b"application/json")]
_DONE = b"data: [DONE]\n\n"


class Writer(Protocol):
    """Spells an answer in the manner of one endpoint."""

    def whole(self, pieces: list[Piece], usage: Usage) -> bytes:
        """Spell the whole answer."""

    def chunks(self, piece: Piece, usage: Usage | None) -> list[bytes]:
        """Spell a piece of a stream; nothing where it adds nothing to be seen."""

    def usage_chunk(self, usage: Usage) -> bytes:
        """Spell the last chunk of a stream that was asked for its usage."""


@dataclass(frozen=True, slots=True)
class Api:
    """One endpoint: how a body becomes a plan, and what spells the answer."""

    plan: Callable[[bytes, Service, ServedModel], Awaitable[Plan]]
    writer: Callable[[Plan, ServedModel], Writer]


class GeneratingEndpoint:
    """An ASGI app for one of the generating endpoints."""

    def __init__(self, service: Service, api: Api) -> None:
        self._service = service
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever happens, it has exactly one ending."""
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
        await error_response(error)(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, exchange = self._service, scope["state"]["exchange"]
        model = service.accepting()
        body = await read_body(receive, service.config.max_request_bytes)
        plan = exchange.plan = await self._api.plan(body, service, model)
        writer = self._api.writer(plan, model)
        with await opened(service, plan, exchange, Headers(scope=scope)) as generation:
            exchange.timelines = generation.timelines
            async with watched(receive, generation):
                answer = Answer(plan, model.tokenizer, generation)
                await (_stream(answer, writer, send) if plan.stream else _collect(answer, writer, send))


async def _collect(answer: Answer, writer: Writer, send: Send) -> None:
    content = writer.whole(await answer.whole(), answer.usage)
    headers = [*_JSON, (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _stream(answer: Answer, writer: Writer, send: Send) -> None:
    # The status is sent with the first tokens, so that a failure before them still has a status of its own.
    pieces = await answer.next_pieces()
    await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
    try:
        await send(_body(_events(pieces, answer, writer)))
        while not answer.finished:
            events = _events(await answer.next_pieces(), answer, writer)
            if events:
                await send(_body(events))
        usage = _event(writer.usage_chunk(answer.usage)) if answer.plan.include_usage else b""
        ending = usage + _DONE
    except RequestError as error:
        ending = _event(encode_json(error_body(error)))
    except ClientGone:
        raise
    except Exception as error:  # noqa: BLE001 - logged; the stream still has to end
        ending = _event(encode_json(error_body(mistake(error))))
    await send({"type": "http.response.body", "body": ending, "more_body": False})


def _events(pieces: list[Piece], answer: Answer, writer: Writer) -> bytes:
    """Spell the pieces of one step for one write."""
    usage = answer.usage if answer.plan.continuous_usage else None
    return b"".join(_event(chunk) for piece in pieces for chunk in writer.chunks(piece, usage))


def _event(content: bytes) -> bytes:
    return b"data: " + content + b"\n\n"


def _body(content: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": content, "more_body": True}
