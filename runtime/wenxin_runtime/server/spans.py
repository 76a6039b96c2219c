"""An exchange as OpenTelemetry spans, by its conventions for generative AI; sent by OTLP over HTTP.

One span per exchange, and below it one each for the queue, the prefill and the decoding of a sequence. They are made
when the exchange is over, from the times that were noted anyway, so tracing costs a request nothing while it runs.
Imported only where tracing is asked for: its packages come with the extra `tracing`.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from wenxin_runtime import __version__
from wenxin_runtime.server.exchange import Exchange, cached_tokens
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.timeline import Timeline

_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
_PROVIDER = "wenxin"
# A request may have a hundred choices; what the first ones did tells enough.
_MOST_SEQUENCES = 16
_CLOSE_SECONDS = 3.0

logger = logging.getLogger(__name__)
_context = TraceContextTextMapPropagator()


class Spans:
    """Makes spans and hands them to a thread that sends them; when it cannot, they are lost and the log says so."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("wenxin_runtime", __version__)

    @classmethod
    def to(cls, endpoint: str | None) -> Self:
        """Send to a URL; None leaves it, as everything else, to OpenTelemetry's environment variables."""
        # Each retry would be a warning; that a batch was given up is an error of its own.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider)

    def record(self, exchange: Exchange) -> None:
        """Make the spans of an exchange that generates."""
        operation = exchange.operation or _OPERATIONS.get(exchange.path)
        if operation is None:
            return
        try:
            self._record(exchange, operation)
        except Exception:  # a request that was answered well must not fail for its trace
            logger.exception("a trace is lost")

    async def close(self) -> None:
        """Send the rest, for a few seconds at most; a collector that is gone must not hold the process."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSE_SECONDS)

    def _record(self, exchange: Exchange, operation: str) -> None:
        plan = exchange.plan
        span = self._tracer.start_span(
            operation if plan is None else f"{operation} {plan.model}",
            context=_context.extract(exchange.trace_context),
            kind=SpanKind.SERVER,
            start_time=exchange.begun_ns,
            attributes=_exchange_attributes(exchange, operation),
        )
        if plan is not None:
            span.set_attributes(dict(_request_attributes(plan)))
            span.set_attributes(dict(_response_attributes(plan, exchange.timelines)))
        if _failed(exchange):
            span.set_status(Status(StatusCode.ERROR))
        if span.is_recording():
            for number, timeline in enumerate(exchange.timelines[:_MOST_SEQUENCES]):
                self._record_phases(exchange, span, number, timeline)
        span.end()

    def _record_phases(self, exchange: Exchange, parent: Span, number: int, timeline: Timeline) -> None:
        for name, start, end in _phases(timeline):
            self._tracer.start_span(
                name,
                context=set_span_in_context(parent),
                start_time=_unix_ns(exchange, start),
                attributes={"wenxin.sequence": number},
            ).end(_unix_ns(exchange, end))


def _resource() -> Resource:
    """Name the service; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before."""
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {SERVICE_VERSION: __version__} | ({} if named else {SERVICE_NAME: "wenxin-runtime"})
    return Resource.create(ours)


def _exchange_attributes(exchange: Exchange, operation: str) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDER,
        "http.request.method": exchange.method,
        "url.path": exchange.path,
        "wenxin.request_id": exchange.id,
    }
    if exchange.status:
        found["http.response.status_code"] = exchange.status
    if exchange.error:
        found["error.type"] = exchange.error
    return found


def _request_attributes(plan: Plan) -> Iterator[tuple[str, AttributeValue]]:
    """What was asked for. Stop strings are text of the client's, and stay out."""
    sampling = plan.sampling
    yield "gen_ai.request.model", plan.model
    yield "gen_ai.request.max_tokens", sampling.max_tokens
    yield "gen_ai.request.temperature", sampling.temperature
    yield "gen_ai.request.top_p", sampling.top_p
    yield "gen_ai.request.top_k", sampling.top_k
    yield "gen_ai.request.frequency_penalty", sampling.frequency_penalty
    yield "gen_ai.request.presence_penalty", sampling.presence_penalty
    yield "gen_ai.request.stream", plan.stream
    if sampling.seed is not None:
        yield "gen_ai.request.seed", sampling.seed
    if plan.n > 1:
        yield "gen_ai.request.choice.count", plan.n


def _response_attributes(plan: Plan, timelines: Sequence[Timeline]) -> Iterator[tuple[str, AttributeValue]]:
    yield "gen_ai.response.id", plan.id
    yield "gen_ai.response.model", plan.model
    yield "gen_ai.usage.input_tokens", plan.prompt_tokens
    yield "gen_ai.usage.output_tokens", sum(timeline.tokens for timeline in timelines)
    yield "gen_ai.usage.cache_read.input_tokens", cached_tokens(plan, timelines)
    yield "gen_ai.response.finish_reasons", [timeline.ending or "open" for timeline in timelines]


def _failed(exchange: Exchange) -> bool:
    """A client's mistake is no error of the server's, by OpenTelemetry's conventions for HTTP."""
    return exchange.status >= 500 or any(timeline.ending == "error" for timeline in exchange.timelines)


def _phases(timeline: Timeline) -> Iterator[tuple[str, float, float]]:
    """Name each phase that was reached, with its start and its end, of time.monotonic()."""
    ended = timeline.last_token if timeline.ended is None else timeline.ended
    if timeline.first_token is None or timeline.last_token is None:
        yield "queue", timeline.accepted, ended or timeline.accepted
        return
    started = min(timeline.accepted + (timeline.queue_seconds or 0.0), timeline.first_token)
    yield "queue", timeline.accepted, started
    yield "prefill", started, timeline.first_token
    yield "decode", timeline.first_token, timeline.last_token


def _unix_ns(exchange: Exchange, moment: float) -> int:
    return exchange.begun_ns + int((moment - exchange.begun) * 1e9)
