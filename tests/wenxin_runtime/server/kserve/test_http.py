"""The routes of /v2 with a scripted engine: JSON, binary tensors, /generate, and everything that is wrong."""

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http.aio as triton_http
from tritonclient.utils import InferenceServerException

from tests.wenxin_runtime.server.conftest import NAME, Running
from tests.wenxin_runtime.server.kserve.conftest import answered, finish_of, tensors, text_of
from wenxin_runtime import __version__
from wenxin_runtime.ipc import TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")

INFER = f"/v2/models/{NAME}/infer"
Client = triton_http.InferenceServerClient


def text_input(text: str = "hi") -> dict[str, Any]:
    return {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [text]}


def of_json(name: str, datatype: str, *data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": list(data)}


async def refused(server: Running, *inputs: Any, status: int = 400, **body: Any) -> str:
    response = await server.client.post(INFER, json={"inputs": [text_input(), *inputs], **body})
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    return response.json()["error"]


async def test_health_and_metadata_are_as_tritonclient_expects(over_http: Client) -> None:
    assert await over_http.is_server_live()
    assert await over_http.is_server_ready()
    assert await over_http.is_model_ready(NAME)
    assert await over_http.is_model_ready(NAME, "1")
    assert not await over_http.is_model_ready("gpt")
    assert not await over_http.is_model_ready(NAME, "2")
    server = await over_http.get_server_metadata()
    assert (server["name"], server["version"]) == ("wenxin", __version__)
    assert "binary_tensor_data" in server["extensions"]
    model = await over_http.get_model_metadata(NAME, "1")
    assert (model["name"], model["versions"]) == (NAME, ["1"])
    assert {"name": "text_input", "datatype": "BYTES", "shape": [1]} in model["inputs"]
    assert {"name": "input_ids", "datatype": "INT32", "shape": [-1]} in model["inputs"]
    assert {"name": "token_ids", "datatype": "INT32", "shape": [-1]} in model["outputs"]


async def test_the_config_says_that_answers_may_come_in_pieces(over_http: Client) -> None:
    config = await over_http.get_model_config(NAME)
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1], "optional": True} in config["input"]


async def test_the_index_lists_the_model(server: Running, over_http: Client) -> None:
    assert await over_http.get_model_repository_index() == [{"name": NAME, "version": "1", "state": "READY"}]
    ready = await server.client.post("/v2/repository/index", json={"ready": True})
    assert [model["name"] for model in ready.json()] == [NAME]
    wrong = await server.client.post("/v2/repository/index", content=b"[")
    assert wrong.status_code == 400
    assert wrong.json().keys() == {"error"}


async def test_a_text_is_answered_in_binary_tensors(server: Running, over_http: Client) -> None:
    inputs = tensors(triton_http, text_input="hi", max_tokens=5, temperature=0.7, seed=-2, top_p=0.9, stop=["x", "y"])
    submit, result = await answered(server, over_http.infer(NAME, inputs, request_id="mine"))
    assert submit.prompt_ids == tuple(server.tokens("hi"))
    sampling = submit.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed, sampling.top_p) == (5, 0.7, -2, 0.9)
    assert (text_of(result), finish_of(result)) == ("hello", "length")
    assert list(result.as_numpy("token_ids")) == server.tokens("hello")
    assert result.as_numpy("num_input_tokens") == [len(server.tokens("hi"))]
    assert result.as_numpy("num_output_tokens") == [len(server.tokens("hello"))]
    assert result.get_response()["id"] == "mine"
    assert "binary_data_size" in result.get_output("text_output")["parameters"]


async def test_a_text_is_answered_in_json(server: Running) -> None:
    body = {
        "id": "7",
        "inputs": [text_input(), of_json("max_tokens", "INT64", 3)],
        "outputs": [{"name": "text_output"}],
    }
    submit, response = await answered(server, server.client.post(f"/v2/models/{NAME}/versions/1/infer", json=body))
    assert submit.sampling.max_tokens == 3
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_name": NAME,
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [1], "data": ["hello"]}],
    }


async def test_each_output_is_json_or_binary_as_asked(server: Running, over_http: Client) -> None:
    outputs = [
        triton_http.InferRequestedOutput("text_output", binary_data=False),
        triton_http.InferRequestedOutput("token_ids", binary_data=True),
    ]
    pending = over_http.infer(NAME, tensors(triton_http, text_input="hi"), outputs=outputs)
    _, result = await answered(server, pending)
    assert result.get_output("text_output")["data"] == ["hello"]
    assert "data" not in result.get_output("token_ids")
    assert list(result.as_numpy("token_ids")) == server.tokens("hello")
    assert result.get_output("finish_reason") is None


@pytest.mark.parametrize(("datatype", "dtype"), [("INT32", np.int32), ("INT64", np.int64)])
async def test_token_ids_are_taken_as_they_are(server: Running, over_http: Client, datatype: str, dtype: type) -> None:
    tensor = triton_http.InferInput("input_ids", [3], datatype)
    tensor.set_data_from_numpy(np.array([5, 300, 7], dtype=dtype))
    submit, result = await answered(server, over_http.infer(NAME, [tensor]))
    assert submit.prompt_ids == (5, 300, 7)
    assert text_of(result) == "hello"


async def test_the_strongest_source_of_a_parameter_wins(server: Running) -> None:
    body = {
        "inputs": [
            text_input(),
            of_json("max_tokens", "INT32", 3),
            of_json("sampling_parameters", "BYTES", '{"max_tokens": "4", "temperature": "0.1", "top_p": 0.5, "n": 1}'),
        ],
        "parameters": {"temperature": 0.9, "top_k": 7, "sequence_id": 12, "ignore_eos": "true", "max_tokens": 9},
    }
    submit, _ = await answered(server, server.client.post(INFER, json=body))
    sampling = submit.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (3, 0.1, 0.5, 7)
    assert sampling.ignore_eos


async def test_the_prompt_is_repeated_only_on_demand(server: Running) -> None:
    for wanted, text in ((None, "hello"), (True, "hello"), (False, "hihello")):
        inputs = [text_input(), *([] if wanted is None else [of_json("exclude_input_in_output", "BOOL", wanted)])]
        _, response = await answered(server, server.client.post(INFER, json={"inputs": inputs}))
        assert response.json()["outputs"][0]["data"] == [text]


async def test_logprobs_come_as_the_openai_api_spells_them(server: Running) -> None:
    body = {"inputs": [text_input(), of_json("logprobs", "INT32", 0), of_json("return_logprobs", "BOOL", True)]}
    scored = tuple(TokenLogprobs(-0.5, 1) for _ in server.tokens("hello"))
    submit, response = await answered(server, server.client.post(INFER, json=body), logprobs=scored)
    assert submit.sampling.logprobs == 0
    (found,) = [each["data"] for each in response.json()["outputs"] if each["name"] == "logprobs"]
    assert json.loads(found[0])["token_logprobs"] == [-0.5] * len(scored)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (of_json("prompt", "BYTES", "hi"), ["'prompt'", "text_input"]),
        (of_json("input_ids", "INT32", 5), ["text_input and input_ids"]),
        (text_input(), ["text_input", "twice"]),
        (of_json("max_tokens", "BYTES", "3"), ["max_tokens", "INT32", "BYTES"]),
        (of_json("max_tokens", "INT32", 3, 4), ["max_tokens", "[1]", "[2]"]),
        (of_json("max_tokens", "INT32", -1), ["max_tokens"]),
        (of_json("max_tokens", "INT32", 5000), ["max_tokens", "5000"]),
        ({**of_json("max_tokens", "INT32", 3), "shape": [2]}, ["max_tokens", "2 values"]),
        (of_json("temperature", "FP32", -1.0), ["temperature"]),
        (of_json("stream", "BOOL", True), ["stream", "generate_stream"]),
        (of_json("stop", "BYTES", ""), ["stop"]),
        (of_json("logprobs", "INT32", 1000), ["logprobs", "--max-logprobs"]),
        (of_json("sampling_parameters", "BYTES", "{"), ["sampling_parameters"]),
        (of_json("sampling_parameters", "BYTES", "[]"), ["sampling_parameters"]),
        (of_json("sampling_parameters", "BYTES", '{"text_input": "x"}'), ["sampling_parameters"]),
        (of_json("sampling_parameters", "BYTES", '{"n": 2}'), ["n: "]),
        (of_json("sampling_parameters", "BYTES", '{"temperature": "warm"}'), ["temperature", "warm"]),
        (of_json("sampling_parameters", "BYTES", '{"use_beam_search": true}'), ["use_beam_search"]),
        ({**text_input(), "parameters": {"shared_memory_region": "r"}}, ["text_input", "shared_memory_region"]),
        ({**of_json("seed", "INT64", 1), "parameters": {"binary_data_size": 8}}, ["seed", "0 bytes are left"]),
    ],
)
async def test_a_wrong_tensor_is_refused_by_its_name(server: Running, wrong: dict[str, Any], words: list[str]) -> None:
    message = await refused(server, wrong)
    assert all(word in message for word in words), message


async def test_a_wrong_request_is_told_why(server: Running) -> None:
    assert "logprobs" in await refused(server, outputs=[{"name": "logprobs"}])
    assert "'image'" in await refused(server, outputs=[{"name": "image"}])
    assert "classification" in await refused(
        server, outputs=[{"name": "text_output", "parameters": {"classification": 3}}]
    )
    assert "temperature" in await refused(server, parameters={"temperature": []})
    for body, word in ((b"{", "protocol"), (b'{"inputs": 3}', "inputs"), (b'{"inputs": []}', "neither")):
        response = await server.client.post(INFER, content=body)
        assert response.status_code == 400
        assert word in response.json()["error"]


@pytest.mark.parametrize("ids", [[], [-1], [10**6]])
async def test_impossible_token_ids_are_refused(server: Running, ids: list[int]) -> None:
    body = {"inputs": [of_json("input_ids", "INT64", *ids)]}
    response = await server.client.post(INFER, json=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("input_ids")


async def test_a_prompt_that_is_too_long_is_refused(server: Running) -> None:
    response = await server.client.post(INFER, json={"inputs": [of_json("input_ids", "INT32", *[5] * 300)]})
    assert response.status_code == 400
    assert "256 tokens" in response.json()["error"]


@pytest.mark.parametrize(
    ("header", "body", "word"),
    [
        ("x", b"{}", "Inference-Header-Content-Length"),
        ("9", b"{}", "Inference-Header-Content-Length"),
        ("-1", b"{}", "Inference-Header-Content-Length"),
        ("2", b"{}abc", "protocol"),
        ("13", b'{"inputs":[]}abc', "belong to no tensor"),
    ],
)
async def test_a_wrong_length_of_the_header_is_refused(server: Running, header: str, body: bytes, word: str) -> None:
    headers = {"Inference-Header-Content-Length": header}
    response = await server.client.post(INFER, content=body, headers=headers)
    assert response.status_code == 400
    assert word in response.json()["error"]


async def test_text_that_is_no_utf8_is_refused(server: Running) -> None:
    head = json.dumps(
        {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}]}
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = await server.client.post(INFER, content=head + b"\1\0\0\0\xff", headers=headers)
    assert (response.status_code, response.json()["error"]) == (400, "text_input: the text is not valid UTF-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_a_temperature_that_is_no_number_is_refused(over_http: Client, value: float) -> None:
    with pytest.raises(InferenceServerException, match="temperature must be a finite number"):
        await over_http.infer(NAME, tensors(triton_http, text_input="hi", temperature=value))


async def test_an_unknown_model_or_version_is_not_found(server: Running, over_http: Client) -> None:
    for model, version in (("gpt", ""), (NAME, "2")):
        with pytest.raises(InferenceServerException) as refused:
            await over_http.infer(model, tensors(triton_http, text_input="hi"), model_version=version)
        assert refused.value.status() == "404"
    for path in ("/v2/models/gpt", "/v2/models/gpt/config", "/v2/models/gpt/stats", f"/v2/models/{NAME}/versions/2"):
        response = await server.client.get(path)
        assert (response.status_code, response.json().keys()) == (404, {"error"}), path


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/systemsharedmemory/status", 501),
        ("/v2/cudasharedmemory/status", 501),
        ("/v2/trace/setting", 501),
        ("/v2/logging", 501),
        ("/v2/weather", 404),
    ],
)
async def test_what_is_not_spoken_here_is_said_in_the_protocols_words(server: Running, path: str, status: int) -> None:
    response = await server.client.get(path)
    assert response.status_code == status
    assert response.json().keys() == {"error"}


async def test_loading_of_models_is_not_offered(over_http: Client) -> None:
    with pytest.raises(InferenceServerException, match="'repository' is not supported"):
        await over_http.load_model(NAME)


async def test_a_compressed_body_is_refused(over_http: Client) -> None:
    with pytest.raises(InferenceServerException, match="Content-Encoding"):
        await over_http.infer(NAME, tensors(triton_http, text_input="hi"), request_compression_algorithm="gzip")


async def test_statistics_count_what_really_happened(server: Running, over_http: Client) -> None:
    async def counts() -> dict[str, Any]:
        (found,) = (await over_http.get_inference_statistics(NAME))["model_stats"]
        return found

    before = await counts()
    _, response = await answered(server, server.client.post(INFER, json={"inputs": [text_input()]}))
    assert response.status_code == 200
    await answered(server, server.post("completions", prompt="hi"))
    await refused(server, of_json("max_tokens", "INT32", -1))
    pending = asyncio.ensure_future(server.client.post(INFER, json={"inputs": [text_input()]}))
    await server.engine.write(await server.engine.submit(), finish_reason="error", error="out of luck")
    assert (await pending).status_code == 500
    after = await counts()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 2
    assert after["last_inference"] > 0
    stats, older = after["inference_stats"], before["inference_stats"]
    assert stats["fail"]["count"] - older["fail"]["count"] == 1
    for phase in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert stats[phase]["count"] - older[phase]["count"] == 2, phase
    parts = sum(stats[phase]["ns"] for phase in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < parts <= stats["success"]["ns"]
    every = await server.client.get("/v2/models/stats")
    assert [model["name"] for model in every.json()["model_stats"]] == [NAME]


async def test_a_mistake_of_ours_is_logged_and_told_without_details(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("wenxin_runtime.server.kserve.inference.plan_completion", broken)
    response = await server.client.post(INFER, json={"inputs": [text_input()]})
    assert (response.status_code, response.json()) == (500, {"error": "internal error"})
    assert "ZeroDivisionError" in caplog.text


async def test_a_body_that_is_too_large_is_refused(server: Running) -> None:
    limit = server.server.service.config.max_request_bytes
    async with httpx.AsyncClient(base_url=server.server.url) as client:
        response = await client.post(INFER, content=b" " * (limit + 1))
    assert (response.status_code, response.headers["connection"]) == (413, "close")
