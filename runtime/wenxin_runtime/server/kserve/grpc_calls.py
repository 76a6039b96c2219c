"""One gRPC request: its record, its status, and the same path to an answer as over HTTP."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import grpc

from wenxin_runtime.errors import RequestError
from wenxin_runtime.server.answering import mistake, opened
from wenxin_runtime.server.exchange import Exchange
from wenxin_runtime.server.http import access_log, is_decent_id
from wenxin_runtime.server.kserve import grpc_format
from wenxin_runtime.server.kserve.inference import Inference, Response
from wenxin_runtime.server.kserve.protos.open_inference_pb2 import ModelInferRequest
from wenxin_runtime.server.service import Service
from wenxin_runtime.telemetry import CLIENT_LEFT

SERVICE = "inference.GRPCInferenceService"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_TRACE_HEADERS = ("traceparent", "tracestate")


def code_of(error: RequestError) -> grpc.StatusCode:
    """Return the status that says the same as the HTTP status of an error."""
    return _CODES.get(error.status, grpc.StatusCode.INTERNAL)


def _note(error: RequestError, exchange: Exchange) -> grpc.StatusCode:
    exchange.status, exchange.error = error.status, error.code or error.type
    return code_of(error)


def retry_hint(error: RequestError) -> tuple[tuple[str, str], ...]:
    """Tell in trailing metadata when to come again: for people, and for gRPC's own retries."""
    if error.retry_after is None:
        return ()
    return ("retry-after", str(error.retry_after)), ("grpc-retry-pushback-ms", str(1000 * error.retry_after))


def metadata_of(context: Any) -> dict[str, str]:
    """Return a call's metadata that is text, by name in lower case."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


class Calls:
    """Answers requests, whichever method they came by."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def places(self) -> int:
        """How many sequences the server accepts at once."""
        return self._service.config.max_num_seqs + self._service.config.queue_size

    @contextlib.contextmanager
    def recorded(self, method: str, metadata: Mapping[str, str]) -> Iterator[Exchange]:
        """Keep a record of one request, and tell of it at its end; its status is the HTTP status of the same meaning.

        Raises:
            RequestError: whatever went wrong, our own mistakes included.
        """
        given = metadata.get("x-request-id")
        exchange = Exchange(
            id=given if given and is_decent_id(given) else uuid.uuid4().hex,
            method="POST",
            path=f"/{SERVICE}/{method}",
            trace_context={name: metadata[name] for name in _TRACE_HEADERS if name in metadata},
            operation="text_completion",
        )
        try:
            yield exchange
            exchange.status, code = 200, grpc.StatusCode.OK
        except (asyncio.CancelledError, GeneratorExit):
            exchange.status, code = CLIENT_LEFT, grpc.StatusCode.CANCELLED
            raise
        except RequestError as error:
            code = _note(error, exchange)
            raise
        except Exception as error:
            told = mistake(error)
            code = _note(told, exchange)
            raise told from error
        finally:
            self._tell(exchange, code)

    async def responses(
        self, message: ModelInferRequest, exchange: Exchange, metadata: Mapping[str, str], *, pieces: bool
    ) -> AsyncGenerator[Response]:
        """Check a request, generate, and give the answer as it comes; in several `pieces` only where it may.

        Raises:
            RequestError: it cannot be answered, or not to its end.
        """
        service = self._service
        model = service.accepting()
        inference = await Inference.of(grpc_format.read_infer(message), service, model, pieces=pieces)
        exchange.plan = inference.plan
        with await opened(service, inference.plan, exchange, metadata) as generation:
            exchange.timelines = generation.timelines
            async with contextlib.aclosing(inference.responses(generation, exchange.cache)) as responses:
                async for response in responses:
                    yield response

    def _tell(self, exchange: Exchange, code: grpc.StatusCode) -> None:
        access_log.info("%s", exchange.line())
        self._service.metrics.grpc_responses.labels(code.name).inc()
        self._service.over(exchange)
