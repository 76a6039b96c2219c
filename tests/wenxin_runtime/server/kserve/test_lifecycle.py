"""Both ports while the server loads, is full, leaves, or answers from Redis."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc.aio as triton_grpc

from bench.redis_server import RedisServer
from tests.wenxin_runtime.server.conftest import NAME, Running, running_server
from tests.wenxin_runtime.server.kserve.conftest import grpc_client, requests, tensors, text_of
from tests.wenxin_runtime.server.processes import TIMEOUT_SECONDS, until
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.answers import store
from wenxin_runtime.server.kserve.grpc_calls import SERVICE
from wenxin_runtime.server.kserve.protos import health_pb2
from wenxin_runtime.server.kserve.protos import open_inference_pb2 as pb
from wenxin_runtime.server.service import Stage

ASKED = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]}
INFER = f"/v2/models/{NAME}/infer"


@contextlib.asynccontextmanager
async def serving(model_dir: Path, **flags: Any) -> AsyncIterator[tuple[Running, triton_grpc.InferenceServerClient]]:
    async with running_server(model_dir, grpc_port=0, **flags) as server, grpc_client(server) as client:
        yield server, client


def text_input(**more: Any) -> list[Any]:
    return tensors(triton_grpc, text_input="hi", max_tokens=8, **more)


async def bare_refusal(server: Running) -> grpc.aio.AioRpcError:
    """Ask without tritonclient, which hides trailing metadata."""
    asked = pb.ModelInferRequest(model_name=NAME)
    asked.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hi")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(asked)
    return error.value


async def test_a_server_that_loads_says_so_over_both_ports(model_dir: Path) -> None:
    async with serving(model_dir, ready=False) as (server, client):
        assert await client.is_server_live()
        assert not await client.is_server_ready()
        assert not await client.is_model_ready(NAME)
        index = await client.get_model_repository_index(as_json=True)
        assert index["models"][0]["state"] == "UNAVAILABLE"
        assert "loading" in index["models"][0]["reason"] or "read" in index["models"][0]["reason"]
        check = health_pb2.HealthCheckRequest()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel:
            call = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                health_pb2.HealthCheckRequest.SerializeToString,
                health_pb2.HealthCheckResponse.FromString,
            )
            assert (await call(check)).status == health_pb2.HealthCheckResponse.ServingStatus.Value("NOT_SERVING")
        error = await bare_refusal(server)
        assert (error.code(), "loading" in error.details()) == (grpc.StatusCode.UNAVAILABLE, True)
        hints = dict(error.trailing_metadata())
        assert (hints["retry-after"], hints["grpc-retry-pushback-ms"]) == ("10", "10000")
        for path, status in (("live", 200), ("ready", 503)):
            assert (await server.client.get(f"/v2/health/{path}")).status_code == status
        assert (await server.client.get(f"/v2/models/{NAME}/ready")).status_code == 503
        assert (await server.client.post("/v2/repository/index", json={"ready": True})).json() == []
        response = await server.client.post(INFER, json=ASKED)
        assert (response.status_code, response.headers["retry-after"]) == (503, "10")
        assert response.json() == {"error": "the model is still loading"}
        await server.ready()
        assert await client.is_server_ready()


async def test_a_full_server_refuses_with_a_hint_when_to_retry(model_dir: Path) -> None:
    async with serving(model_dir, max_num_seqs=1, queue_size=0) as (server, client):
        running = asyncio.create_task(client.infer(NAME, text_input()))
        submit = await server.engine.submit()
        error = await bare_refusal(server)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.trailing_metadata())["retry-after"] == "1"
        response = await server.client.post(INFER, json=ASKED)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        (told,) = [each async for each in client.stream_infer(requests({"model_name": NAME, "inputs": text_input()}))]
        assert told[0] is None
        assert "places are taken" in str(told[1])
        assert await server.metric("wenxin_rejections_total", reason="overloaded") == 3
        assert await server.metric("wenxin_grpc_responses_total", code="UNAVAILABLE") == 2
        await server.engine.say(submit, server.tokens("abc"))
        assert text_of(await running) == "abc"


async def test_a_server_that_leaves_is_not_ready_but_still_serves(model_dir: Path) -> None:
    async with serving(model_dir, shutdown_delay=300) as (server, client):
        server.stop.ask(300)
        await until(lambda: server.server.service.stage is Stage.LEAVING)
        assert not await client.is_server_ready()
        late = asyncio.create_task(client.infer(NAME, text_input()))
        await server.engine.say(await server.engine.submit(), server.tokens("late"))
        assert text_of(await late) == "late"


async def test_a_draining_server_refuses_new_requests_and_finishes_what_it_accepted(model_dir: Path) -> None:
    async with serving(model_dir, drain_timeout=300) as (server, client):
        stream = client.stream_infer(requests({"model_name": NAME, "inputs": text_input(stream=True)}))
        accepted = await server.engine.submit()
        await server.engine.write(accepted, *server.tokens("hello"))
        await anext(stream)
        server.stop.ask(0)
        await until(lambda: server.server.service.stage is Stage.DRAINING)
        error = await bare_refusal(server)
        assert (error.code(), "stopping" in error.details()) == (grpc.StatusCode.UNAVAILABLE, True)
        assert (await server.client.post(INFER, json=ASKED)).status_code == 503
        await server.engine.write(accepted, *server.tokens(" world"), finish_reason="stop")
        (last,) = [result async for result, _ in stream]
        assert text_of(last) == " world"
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)


async def test_an_idle_stream_does_not_hold_a_server_that_leaves(model_dir: Path) -> None:
    async with serving(model_dir, drain_timeout=300) as (server, client):
        asking, idle = asyncio.Event(), asyncio.Event()

        async def one_and_then_none() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": NAME, "inputs": text_input()}
            asking.set()
            await idle.wait()

        stream = client.stream_infer(one_and_then_none())
        await server.engine.say(await server.engine.submit(), server.tokens("abc"))
        result, _ = await anext(stream)
        assert text_of(result) == "abc"
        server.stop.ask(0)
        with pytest.raises(grpc.aio.AioRpcError, match="the server has stopped"):
            await anext(stream)
        await asyncio.wait_for(server.task, TIMEOUT_SECONDS)


async def test_an_engine_that_dies_ends_the_open_stream_with_an_error(model_dir: Path) -> None:
    async with serving(model_dir) as (server, client):
        stream = client.stream_infer(requests({"model_name": NAME, "inputs": text_input(stream=True)}))
        await server.engine.submit()
        await server.engine.exit(3)
        result, error = await anext(stream)
        assert result is None
        assert "the engine died" in str(error)


async def test_a_port_that_is_taken_is_an_error_of_the_flags(model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running_server(model_dir, ready=False, tokens="5", grpc_port=port) as server:
            with pytest.raises(ConfigError, match=f"--grpc-port {port}"):
                await asyncio.wait_for(asyncio.shield(server.task), TIMEOUT_SECONDS)


async def test_a_missing_extra_is_named(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wenxin_runtime.server.kserve.grpc_listener", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    async with running_server(model_dir, ready=False, tokens="5", grpc_port=0) as server:
        with pytest.raises(ConfigError, match=r"--grpc-port needs the module grpc; .*wenxin-operator\[grpc\]"):
            await asyncio.wait_for(asyncio.shield(server.task), TIMEOUT_SECONDS)


def test_a_port_out_of_range_is_refused() -> None:
    from wenxin_runtime.config import RuntimeConfig

    with pytest.raises(ConfigError, match="--grpc-port"):
        RuntimeConfig(model_dir="m", grpc_port=70000)


@pytest.fixture
def redis_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisServer]:
    monkeypatch.setattr(store, "LOOKUP_SECONDS", 5.0)  # this machine may be busy
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


async def test_an_answer_to_an_openai_request_is_a_hit_for_the_same_one_over_grpc_and_http(
    model_dir: Path, redis_server: RedisServer
) -> None:
    async with serving(model_dir, redis_url=redis_server.url) as (server, client):
        await until(lambda: server.server.service.answers.identity is not None)
        pending = server.posting("completions", prompt="hi", max_tokens=8, temperature=0.7, seed=3)
        await server.engine.say(await server.engine.submit(), server.tokens("hello"))
        assert (await pending).headers["x-wenxin-cache"] == "miss"
        await until(lambda: not server.server.service.answers._store._writes)
        result = await client.infer(NAME, text_input(temperature=0.7, seed=3))
        assert text_of(result) == "hello"
        assert result.get_response().parameters["wenxin_cache"].string_param == "hit"
        asked = {"model_name": NAME, "inputs": text_input(temperature=0.7, seed=3, stream=True)}
        ((streamed, _),) = [each async for each in client.stream_infer(requests(asked))]
        assert streamed.get_response().parameters["wenxin_cache"].string_param == "hit"
        body = {"text_input": "hi", "max_tokens": 8, "temperature": 0.7, "seed": 3}
        response = await server.client.post(f"/v2/models/{NAME}/generate", json=body)
        assert response.headers["x-wenxin-cache"] == response.json()["wenxin_cache"] == "hit"
        statistics = await client.get_inference_statistics(NAME)
        stats = statistics.model_stats[0].inference_stats
        assert (stats.cache_hit.count, stats.cache_miss.count, stats.success.count) == (3, 1, 4)
        assert statistics.model_stats[0].execution_count == 1
        # Another tenant shares nothing.
        headers = {"authorization": "Bearer other"}
        other = asyncio.create_task(client.infer(NAME, text_input(temperature=0.7, seed=3), headers=headers))
        await server.engine.say(await server.engine.submit(), server.tokens("other"))
        assert (await other).get_response().parameters["wenxin_cache"].string_param == "miss"
