"""Requests that no honest client sends: each is refused in the protocol's words, and holds nobody else up."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.wenxin_runtime.server.conftest import NAME, Running
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.server.kserve.grpc_calls import SERVICE, Calls
from wenxin_runtime.server.kserve.grpc_stream import Stream
from wenxin_runtime.server.kserve.protos import open_inference_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

INFER = f"/v2/models/{NAME}/infer"
GENERATE = f"/v2/models/{NAME}/generate"


@pytest_asyncio.fixture(loop_scope="module")
async def channel(server: Running) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel:
        yield channel


def message(**fields: Any) -> pb.ModelInferRequest:
    found = pb.ModelInferRequest(**{"model_name": NAME, **fields})
    found.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hi")
    return found


async def refusal(channel: grpc.aio.Channel, sent: bytes, method: str = "ModelInfer") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary(f"/{SERVICE}/{method}")(sent)
    return error.value


@pytest.mark.parametrize("size", [1, 2**31 - 1])
async def test_a_shape_of_a_million_dimensions_is_refused_at_once_and_not_repeated(
    server: Running, channel: grpc.aio.Channel, size: int
) -> None:
    shape = [size] * 1_000_000
    body = {"inputs": [{"name": "max_tokens", "datatype": "INT32", "shape": shape, "data": [1]}]}
    response = await server.client.post(INFER, content=json.dumps(body).encode())
    assert (response.status_code, len(response.json()["error"]) < 200) == (400, True)
    sent = message()
    sent.inputs.add(name="max_tokens", datatype="INT32", shape=shape).contents.int_contents.append(1)
    error = await refusal(channel, sent.SerializeToString())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_name_of_a_million_letters_is_refused_in_few_words(channel: grpc.aio.Channel) -> None:
    long = "名" * 1_000_000
    sent = message(model_name=long)
    error = await refusal(channel, sent.SerializeToString())
    assert (error.code(), error.details()[:9]) == (grpc.StatusCode.NOT_FOUND, "the model")
    sent = message()
    sent.inputs.add(name=long, datatype="INT32", shape=[2]).contents.int_contents.append(1)
    error = await refusal(channel, sent.SerializeToString())
    assert (error.code(), error.details()[:2]) == (grpc.StatusCode.INVALID_ARGUMENT, "名名")
    error = await refusal(channel, pb.ModelMetadataRequest(name=long).SerializeToString(), "ModelMetadata")
    assert error.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("header", ["9" * 5000, "\xb2"])
async def test_a_length_that_is_no_number_is_refused(server: Running, header: str) -> None:
    headers = {"Inference-Header-Content-Length": header.encode("latin-1")}
    response = await server.client.post(INFER, content=b"{}", headers=headers)
    assert response.status_code == 400
    assert "Inference-Header-Content-Length" in response.json()["error"]


DEEP = "[" * 50_000


@pytest.mark.parametrize(
    "body",
    [
        {"text_input": "hi", "temperature": DEEP},
        {"text_input": "hi", "sampling_parameters": DEEP},
        {"text_input": "hi", "parameters": {"sampling_parameters": 3}},
        {"text_input": [["hi"]] * 3},
        {"text_input": "hi", "parameters": []},
        {"text_input": "hi", "id": 3},
        {"text_input": {"a": 1}},
        {"text_input": "hi", "stop": {"a": 1}},
        {"text_input": "hi", "max_tokens": 10**30},
        {"text_input": "hi", "max_tokens": 1.5},
        {"text_input": "hi", "logit_bias": {"x": 1}},
    ],
)
async def test_a_value_that_makes_no_sense_is_refused(server: Running, body: dict[str, Any]) -> None:
    response = await server.client.post(GENERATE, content=json.dumps(body).encode())
    assert (response.status_code, response.json().keys()) == (400, {"error"}), response.text
    assert len(response.json()["error"]) < 1000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_parameter_that_is_no_number_is_refused_and_not_taken_for_none(
    channel: grpc.aio.Channel, value: float
) -> None:
    sent = message()
    sent.parameters["temperature"].double_param = value
    error = await refusal(channel, sent.SerializeToString())
    assert (error.code(), error.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "temperature must be a finite number",
    )


async def test_a_stream_reads_no_more_requests_than_it_may_answer_or_refuse(server: Running) -> None:
    config = server.server.service.config
    read = 0

    async def endless() -> AsyncIterator[pb.ModelInferRequest]:
        nonlocal read
        for _ in range(100_000):
            read += 1
            yield pb.ModelInferRequest(model_name="gpt")
            await asyncio.sleep(0)

    class NeverRead:
        """A client whose window is full."""

        def invocation_metadata(self) -> tuple[()]:
            return ()

        async def write(self, _: object) -> None:
            await asyncio.Event().wait()

    stream = Stream(Calls(server.server.service), NeverRead())
    running = asyncio.create_task(stream.run(endless(), asyncio.Event()))
    most = config.max_num_seqs + config.queue_size + 64
    await until(lambda: read > most)
    for _ in range(100):
        await asyncio.sleep(0)
    assert read == most + 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_client_that_leaves_in_the_middle_of_a_question_is_no_failure(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    host, port = server.server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await until(lambda: "/v2/repository/index" in caplog.text)
    assert "Exception" not in caplog.text
