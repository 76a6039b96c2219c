"""The gRPC port with a scripted engine, asked by tritonclient and, where that is too polite, by bare gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.wenxin_runtime.server.conftest import NAME, Running
from tests.wenxin_runtime.server.kserve.conftest import finish_of, is_final, requests, tensors, text_of
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime import __version__
from wenxin_runtime.server.kserve.grpc_calls import SERVICE
from wenxin_runtime.server.kserve.protos import health_pb2
from wenxin_runtime.server.kserve.protos import open_inference_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

Client = triton_grpc.InferenceServerClient


@pytest_asyncio.fixture(loop_scope="module")
async def channel(server: Running) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel:
        yield channel


def request(**tensors_: Any) -> dict[str, Any]:
    """Spell a request of a stream."""
    request_id = tensors_.pop("request_id", "")
    return {"model_name": NAME, "inputs": tensors(triton_grpc, **tensors_), "request_id": request_id}


def message(**fields: Any) -> pb.ModelInferRequest:
    found = pb.ModelInferRequest(model_name=NAME, **fields)
    tensor = found.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"hi")
    return found


async def bare_infer(channel: grpc.aio.Channel, sent: Any, **options: Any) -> pb.ModelInferResponse:
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )
    return await call(sent, **options)


async def bare_stream(channel: grpc.aio.Channel, *sent: Any) -> list[pb.ModelStreamInferResponse]:
    call = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelStreamInferResponse.FromString,
    )
    return [each async for each in call(list(sent))]


async def refused(channel: grpc.aio.Channel, sent: pb.ModelInferRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await bare_infer(channel, sent)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, error.value
    return error.value.details()


async def code(server: Running, name: str) -> float:
    return await server.metric("wenxin_grpc_responses_total", code=name)


async def test_health_and_metadata_are_as_tritonclient_expects(over_grpc: Client) -> None:
    assert await over_grpc.is_server_live()
    assert await over_grpc.is_server_ready()
    assert await over_grpc.is_model_ready(NAME)
    assert not await over_grpc.is_model_ready("gpt")
    assert not await over_grpc.is_model_ready(NAME, "2")
    server = await over_grpc.get_server_metadata(as_json=True)
    assert (server["name"], server["version"]) == ("wenxin", __version__)
    model = await over_grpc.get_model_metadata(NAME, "1", as_json=True)
    assert {"name": "input_ids", "datatype": "INT32", "shape": ["-1"]} in model["inputs"]
    config = (await over_grpc.get_model_config(NAME, as_json=True))["config"]
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert {"name": "text_output", "data_type": "TYPE_STRING", "dims": ["1"]} in config["output"]
    index = await over_grpc.get_model_repository_index(as_json=True)
    assert index == {"models": [{"name": NAME, "version": "1", "state": "READY"}]}


@pytest.mark.parametrize(("service", "status"), [("", "SERVING"), (SERVICE, "SERVING"), ("a.B", "SERVICE_UNKNOWN")])
async def test_grpcs_own_health_check_is_answered(channel: grpc.aio.Channel, service: str, status: str) -> None:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.ServingStatus.Value(status)


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
async def test_an_unknown_model_is_not_found(over_grpc: Client, method: str) -> None:
    for model, version in (("gpt", ""), (NAME, "2")):
        with pytest.raises(InferenceServerException) as error:
            await getattr(over_grpc, method)(model, version)
        assert error.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("method", ["get_system_shared_memory_status", "get_trace_settings", "get_log_settings"])
async def test_triton_methods_that_are_not_spoken_here_are_refused_by_name(over_grpc: Client, method: str) -> None:
    with pytest.raises(InferenceServerException, match="is not supported by this server") as error:
        await getattr(over_grpc, method)()
    assert error.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_an_unknown_service_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary("/a.B/C")(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_text_is_answered_whole(server: Running, over_grpc: Client) -> None:
    before = await code(server, "OK")
    inputs = tensors(triton_grpc, text_input="hi", max_tokens=5, temperature=0.7, seed=-2, stop=["x", "y"])
    pending = asyncio.create_task(over_grpc.infer(NAME, inputs, request_id="mine", parameters={"top_k": 7}))
    submit = await server.engine.submit()
    assert submit.prompt_ids == tuple(server.tokens("hi"))
    sampling = submit.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed, sampling.top_k) == (5, 0.7, -2, 7)
    await server.engine.write(submit, *server.tokens("hello"), finish_reason="length")
    result = await pending
    assert (text_of(result), finish_of(result), result.get_response().id) == ("hello", "length", "mine")
    assert list(result.as_numpy("token_ids")) == server.tokens("hello")
    assert await code(server, "OK") == before + 1


async def test_typed_contents_are_read_as_raw_ones_are(server: Running, channel: grpc.aio.Channel) -> None:
    sent = message(model_version="1")
    typed = (
        ("max_tokens", "INT32", "int_contents", 5),
        ("seed", "INT64", "int64_contents", 9),
        ("top_k", "UINT32", "uint_contents", 4),
        ("min_tokens", "UINT64", "uint64_contents", 1),
        ("temperature", "FP32", "fp32_contents", 0.7),
        ("top_p", "FP64", "fp64_contents", 0.9),
        ("ignore_eos", "BOOL", "bool_contents", True),
    )
    for name, datatype, field, value in typed:
        getattr(sent.inputs.add(name=name, datatype=datatype, shape=[1]).contents, field).append(value)
    pending = asyncio.ensure_future(bare_infer(channel, sent))
    submit = await server.engine.submit()
    sampling = submit.sampling
    assert (sampling.max_tokens, sampling.seed, sampling.top_k, sampling.min_tokens) == (5, 9, 4, 1)
    assert (sampling.temperature, sampling.top_p, sampling.ignore_eos) == (0.7, 0.9, True)
    await server.engine.write(submit, 300, 301, finish_reason="stop")
    assert (await pending).model_name == NAME


async def test_a_wrong_tensor_is_refused_by_its_name(channel: grpc.aio.Channel) -> None:
    wrong = message()
    wrong.raw_input_contents.extend([b"\2\0\0\0hi", b"abc"])
    assert "2 entries for 1 inputs" in await refused(channel, wrong)
    wrong = message()
    wrong.raw_input_contents.append(b"\2\0\0\0hi")
    assert "text_input: contents and raw_input_contents" in await refused(channel, wrong)
    wrong = message()
    wrong.inputs.add(name="temperature", datatype="FP16", shape=[1])
    assert "temperature" in await refused(channel, wrong)
    wrong = message()
    wrong.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert "text_input: shared_memory_region" in await refused(channel, wrong)
    wrong = message()
    wrong.inputs.add(name="max_tokens", datatype="INT32", shape=[-1])
    assert "max_tokens" in await refused(channel, wrong)
    wrong = message()
    wrong.parameters["max_tokens"].int64_param = 5000
    assert "max_tokens" in await refused(channel, wrong)


async def test_a_request_that_is_too_large_is_refused(server: Running, channel: grpc.aio.Channel) -> None:
    sent = message(id="x" * server.server.service.config.max_request_bytes)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await bare_infer(channel, sent)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stream_gives_each_piece_of_text_and_says_which_is_the_last(server: Running, over_grpc: Client) -> None:
    stream = over_grpc.stream_infer(requests(request(text_input="hi", max_tokens=40, stream=True, request_id="7")))
    submit = await server.engine.submit()
    first, *rest = server.tokens("hello world")
    await server.engine.write(submit, first)
    result, error = await anext(stream)
    assert (error, is_final(result), finish_of(result), result.get_response().id) == (None, False, "", "7")
    await server.engine.say(submit, rest, "stop")
    results = [result, *[result async for result, _ in stream]]
    assert "".join(text_of(each) for each in results) == "hello world"
    assert [token for each in results for token in each.as_numpy("token_ids")] == [first, *rest]
    assert [is_final(each) for each in results] == [False] * (len(results) - 1) + [True]
    assert finish_of(results[-1]) == "stop"


async def test_a_stream_that_asks_for_an_empty_end_gets_one(server: Running, channel: grpc.aio.Channel) -> None:
    asked = message()
    asked.parameters["stream"].bool_param = True
    asked.parameters["triton_enable_empty_final_response"].bool_param = True  # as tritonclient's blocking client does
    answers = asyncio.create_task(bare_stream(channel, asked))
    await server.engine.write(await server.engine.submit(), *server.tokens("hello"), finish_reason="stop")
    whole, end = [each.infer_response for each in await answers]
    assert b"hello" in whole.raw_output_contents[0]
    assert [each.parameters["triton_final_response"].bool_param for each in (whole, end)] == [False, True]
    assert not end.outputs


async def test_without_the_wish_to_stream_one_response_is_the_whole_answer(server: Running, over_grpc: Client) -> None:
    stream = over_grpc.stream_infer(requests(request(text_input="hi", max_tokens=40)))
    await server.engine.say(await server.engine.submit(), server.tokens("hello world"))
    (only,) = [result async for result, _ in stream]
    assert (text_of(only), finish_of(only), is_final(only)) == ("hello world", "length", True)


async def test_requests_of_one_stream_are_answered_side_by_side(server: Running, over_grpc: Client) -> None:
    names = ("first", "second", "third")
    asked = (request(text_input=name, max_tokens=40, stream=True, request_id=name) for name in names)
    stream = over_grpc.stream_infer(requests(*asked))
    submits = {server.tokenizer.decode(each.prompt_ids): each for each in await server.engine.submits(3)}
    assert set(submits) == set(names)
    for name in reversed(names):
        await server.engine.write(submits[name], *server.tokens(f"to {name}"), finish_reason="stop")
        result, error = await anext(stream)
        assert (error, result.get_response().id, text_of(result)) == (None, name, f"to {name}")
    assert [each async for each in stream] == []


async def test_an_error_of_one_request_leaves_the_others_of_its_stream_alone(
    server: Running, over_grpc: Client, channel: grpc.aio.Channel
) -> None:
    before = await code(server, "INVALID_ARGUMENT")
    asked = (request(text_input="hi", max_tokens=-1), request(text_input="hi", request_id="good"))
    stream = over_grpc.stream_infer(requests(*asked))
    result, error = await anext(stream)
    assert result is None
    assert "max_tokens" in str(error)
    await server.engine.write(await server.engine.submit(), *server.tokens("hello"), finish_reason="stop")
    result, error = await anext(stream)
    assert (error, text_of(result)) == (None, "hello")
    assert await code(server, "INVALID_ARGUMENT") == before + 1
    # tritonclient hides the rest of what the protocol says of an error.
    (told,) = await bare_stream(channel, pb.ModelInferRequest(model_name="gpt", id="lost"))
    assert "gpt" in told.error_message
    assert told.infer_response.id == "lost"
    assert told.infer_response.parameters["triton_final_response"].bool_param


async def test_a_failure_within_an_answer_ends_it_in_the_stream(server: Running, over_grpc: Client) -> None:
    stream = over_grpc.stream_infer(requests(request(text_input="hi", max_tokens=40, stream=True)))
    submit = await server.engine.submit()
    await server.engine.write(submit, *server.tokens("hello"))
    result, _ = await anext(stream)
    assert not is_final(result)
    await server.engine.write(submit, finish_reason="error", error="out of luck")
    result, error = await anext(stream)
    assert (result, "out of luck" in str(error)) == (None, True)


async def test_a_cancelled_stream_frees_all_its_sequences(server: Running, over_grpc: Client) -> None:
    before = await code(server, "CANCELLED")
    asked = [request(text_input=name, max_tokens=40, stream=True) for name in ("one", "two")]
    stream = over_grpc.stream_infer(_held_open(asked))
    submits = await server.engine.submits(2)
    await server.engine.write(submits[0], *server.tokens("hello"))
    await anext(stream)
    stream.cancel()
    aborted = set(await server.engine.aborted()) | set(await server.engine.aborted())
    assert aborted == {submit.request_id for submit in submits}
    await until(server.server.service.engine.idle.is_set)
    assert await code(server, "CANCELLED") == before + 2


async def _held_open(asked: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for each in asked:
        yield each
    await asyncio.Event().wait()


async def test_a_deadline_frees_the_sequence(server: Running, over_grpc: Client) -> None:
    inputs = tensors(triton_grpc, text_input="hi", max_tokens=40)
    pending = asyncio.create_task(over_grpc.infer(NAME, inputs, client_timeout=3.0))
    submit = await server.engine.submit()
    with pytest.raises(InferenceServerException, match="Deadline"):
        await pending
    assert await server.engine.aborted() == (submit.request_id,)


async def test_a_client_that_pings_often_while_it_waits_is_not_hung_up_on(server: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.grpc_port)
    ping, goaway = 6, 7  # types of frames: RFC 9113, 6
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    for _ in range(20):
        writer.write(bytes((0, 0, 8, ping, 0, 0, 0, 0, 0, *range(8))))
        kind = -1
        while kind != ping:
            length, kind = divmod(int.from_bytes((await reader.readexactly(9))[:4], "big"), 256)
            told = await reader.readexactly(length)
            assert kind != goaway, told
    writer.close()
    await writer.wait_closed()


async def test_a_whole_answer_cannot_be_asked_for_in_pieces(over_grpc: Client) -> None:
    with pytest.raises(InferenceServerException, match=r"stream: .*ModelStreamInfer"):
        await over_grpc.infer(NAME, tensors(triton_grpc, text_input="hi", stream=True))


async def test_a_mistake_of_ours_is_logged_and_told_without_details(
    over_grpc: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("wenxin_runtime.server.kserve.inference.plan_completion", broken)
    with pytest.raises(InferenceServerException, match="internal error") as error:
        await over_grpc.infer(NAME, tensors(triton_grpc, text_input="hi"))
    assert error.value.status() == "StatusCode.INTERNAL"
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in str(error.value)


async def test_the_access_log_names_the_request_and_says_nothing_of_it(
    server: Running, over_grpc: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "wenxin_runtime.access")
    inputs = tensors(triton_grpc, text_input="psst", max_tokens=3)
    pending = asyncio.create_task(over_grpc.infer(NAME, inputs, headers={"x-request-id": "me-7"}))
    await server.engine.say(await server.engine.submit(), server.tokens("abc"))
    await pending
    line = next(text for text in caplog.messages if "id=me-7" in text)
    assert f"path=/{SERVICE}/ModelInfer status=200" in line
    assert "finish=length:1" in line
    assert "psst" not in caplog.text


async def test_token_ids_of_a_typed_int64_tensor_are_taken(server: Running, over_grpc: Client) -> None:
    tensor = triton_grpc.InferInput("input_ids", [2], "INT64")
    tensor.set_data_from_numpy(np.array([5, 300], dtype=np.int64))
    pending = asyncio.create_task(over_grpc.infer(NAME, [tensor]))
    submit = await server.engine.submit()
    assert submit.prompt_ids == (5, 300)
    await server.engine.write(submit, 300, finish_reason="length")
    await pending
