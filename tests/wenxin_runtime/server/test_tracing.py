"""Spans as a collector receives them: OTLP over HTTP, in protobuf, from a real server."""

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.wenxin_runtime.server.conftest import NAME, Start
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime import __version__
from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.tracing import Untraced, tracing_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SECRET = "the prompt nobody else may read"


@dataclass
class Collector:
    """A collector on loopback that keeps what it is sent."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
                )
                self._keep(head.split()[1], await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    def _keep(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans


def attributes(holder: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in holder.attributes}


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    server = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    collector.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield collector


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a span at once, and ask no proxy."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


async def test_a_request_becomes_a_span_with_its_phases_in_the_clients_trace(start: Start) -> None:
    async with collecting() as collector, start(otlp_endpoint=collector.url) as server:
        pending = asyncio.create_task(
            server.client.post(
                "/v1/completions",
                json={"prompt": SECRET, "max_tokens": 2, "temperature": 0.5, "seed": 7, "stop": SECRET},
                headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"},
            )
        )
        submit = await server.engine.submit()
        await server.engine.write(submit, 300, queue_seconds=0.001, prefill_seconds=0.002, cached_tokens=1)
        await server.engine.write(submit, 301, finish_reason="length")
        answer = (await pending).json()
        await until(lambda: len(collector.spans) == 4)
    assert set(collector.paths) == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "wenxin-runtime"
    assert collector.resources[0]["service.version"] == __version__
    (span,) = collector.named(f"text_completion {NAME}")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == Span.SPAN_KIND_SERVER
    assert attributes(span) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "wenxin",
        "gen_ai.request.model": NAME,
        "gen_ai.request.max_tokens": 2,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": submit.sampling.top_p,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stream": False,
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": NAME,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/completions",
        "wenxin.request_id": "mine",
    }
    phases = [collector.named(name)[0] for name in ("queue", "prefill", "decode")]
    assert {phase.parent_span_id for phase in phases} == {span.span_id}
    borders = [moment for phase in phases for moment in (phase.start_time_unix_nano, phase.end_time_unix_nano)]
    assert borders == sorted(borders)
    assert span.start_time_unix_nano <= borders[0]
    assert borders[-1] <= span.end_time_unix_nano
    assert SECRET.encode() not in b"".join(each.SerializeToString() for each in collector.spans)


async def test_a_request_over_grpc_or_the_kserve_routes_is_a_span_like_any_other(start: Start) -> None:
    async with collecting() as collector, start(otlp_endpoint=collector.url, grpc_port=0) as server:
        address = f"127.0.0.1:{server.server.grpc_port}"
        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            prompt = tritonclient.grpc.InferInput("text_input", [1], "BYTES")
            prompt.set_data_from_numpy(np.array([SECRET.encode()], dtype=np.object_))
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            pending = asyncio.create_task(client.infer(NAME, [prompt], headers=headers))
            await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
            await pending
        posting = asyncio.create_task(server.client.post(f"/v2/models/{NAME}/generate", json={"text_input": SECRET}))
        await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
        await posting
        await until(lambda: len(collector.named(f"text_completion {NAME}")) == 2)
    over_grpc, over_http = sorted(
        collector.named(f"text_completion {NAME}"), key=lambda span: span.start_time_unix_nano
    )
    assert (over_grpc.trace_id.hex(), over_grpc.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(over_grpc)["url.path"] == "/inference.GRPCInferenceService/ModelInfer"
    assert attributes(over_http)["url.path"] == f"/v2/models/{NAME}/generate"


async def test_each_choice_has_phases_of_its_own(start: Start) -> None:
    async with collecting() as collector, start(otlp_endpoint=collector.url) as server:
        pending = server.posting("completions", prompt="hi", n=2)
        for submit in await server.engine.submits(2):
            await server.engine.write(submit, 300, finish_reason="length")
        assert (await pending).status_code == 200
        await until(lambda: len(collector.spans) == 7)
    assert sorted(attributes(span)["wenxin.sequence"] for span in collector.named("decode")) == [0, 1]
    (span,) = collector.named(f"text_completion {NAME}")
    assert attributes(span)["gen_ai.request.choice.count"] == 2


async def test_a_refused_request_is_a_span_with_its_error_and_a_failed_one_is_an_error(start: Start) -> None:
    async with collecting() as collector, start(otlp_endpoint=collector.url) as server:
        assert (await server.post("chat/completions", messages=[])).status_code == 400
        await until(lambda: len(collector.spans) == 1)
        pending = server.posting("completions", prompt="hi")
        await server.engine.write(await server.engine.submit(), finish_reason="error", error="it overflowed")
        assert (await pending).status_code == 500
        await until(lambda: len(collector.spans) == 3)
        await server.client.get("/v1/models")
        await server.client.get("/health")
        await server.post("completions", prompt="")
        await until(lambda: len(collector.spans) == 4)
    (refused,) = collector.named("chat")
    assert attributes(refused)["error.type"] == "invalid_request_error"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    (failed,) = collector.named(f"text_completion {NAME}")
    assert attributes(failed)["error.type"] == "generation_failed"
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert {span.name for span in collector.spans} == {"chat", f"text_completion {NAME}", "text_completion", "queue"}


async def test_a_trace_that_the_client_does_not_sample_is_not_sent(start: Start) -> None:
    async with collecting() as collector, start(otlp_endpoint=collector.url) as server:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        await server.client.post("/v1/completions", json={"prompt": ""}, headers=headers)
        await server.post("completions", prompt="")
        await until(lambda: collector.spans)
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


async def test_what_was_not_sent_yet_is_sent_when_the_server_stops(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    async with collecting() as collector:
        async with start(otlp_endpoint=collector.url) as server:
            await server.post("completions", prompt="")
            assert collector.spans == []
        assert len(collector.spans) == 1


async def test_a_collector_that_is_gone_disturbs_no_request_and_no_stop(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wenxin_runtime.server.spans._CLOSE_SECONDS", 0.1)
    async with collecting() as gone:
        pass
    caplog.set_level(logging.ERROR)
    async with start(otlp_endpoint=gone.url) as server:
        pending = server.posting("completions", prompt="hi")
        await server.engine.write(await server.engine.submit(), 300, finish_reason="length")
        assert (await pending).status_code == 200
    assert server.task.done()


async def test_opentelemetrys_own_variables_switch_tracing_on_and_off(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
        async with start() as server:
            await server.post("completions", prompt="")
            await until(lambda: collector.spans)
    assert collector.resources[0]["service.name"] == "ours"
    for name, value in (
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ):
        with monkeypatch.context() as off:
            off.setenv(name, value)
            assert isinstance(tracing_of(RuntimeConfig(model_dir="x")), Untraced)


def test_nothing_of_opentelemetry_is_loaded_where_nobody_asks_for_traces() -> None:
    code = (
        "import sys; from wenxin_runtime.config import RuntimeConfig; from wenxin_runtime.server import serve, tracing;"
        "tracing.tracing_of(RuntimeConfig(model_dir='x'));"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where only the extra `runtime` is installed: None in sys.modules makes an import fail."""
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "wenxin_runtime.server.spans", raising=False)


@pytest.mark.usefixtures("without_the_extra")
def test_the_flag_without_the_extra_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"--otlp-endpoint needs .*wenxin-operator\[tracing\]"):
        tracing_of(RuntimeConfig(model_dir="x", otlp_endpoint="http://127.0.0.1:4318"))


@pytest.mark.usefixtures("without_the_extra")
def test_variables_of_a_whole_cluster_without_the_extra_are_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert isinstance(tracing_of(RuntimeConfig(model_dir="x")), Untraced)
    assert "wenxin-operator[tracing]" in caplog.text


@pytest.mark.parametrize("value", ["collector:4318", "grpc://collector:4317", "http://", ""])
def test_an_endpoint_that_is_no_url_is_refused_by_its_flag(value: str) -> None:
    with pytest.raises(ConfigError, match="--otlp-endpoint must be a URL"):
        tracing_of(RuntimeConfig(model_dir="x", otlp_endpoint=value))
