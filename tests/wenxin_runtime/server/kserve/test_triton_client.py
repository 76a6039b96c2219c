"""All four clients of tritonclient against `wenxin-runtime serve` with the real engine, as a pod runs it."""

import asyncio
import contextlib
import json
import queue
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio

from tests.wenxin_runtime.server.kserve.conftest import finish_of, is_final, requests, tensors, text_of
from tests.wenxin_runtime.server.processes import TIMEOUT_SECONDS, ServerProcess, server_process, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "ernie"
SLASHED = "baidu/ERNIE-4.5"
PROMPT = "文心大模型"
GREEDY = {"text_input": PROMPT, "max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
SEEDED = {**GREEDY, "temperature": 1.0, "seed": 11}


class Addresses:
    """Where the server listens."""

    def __init__(self, http: str, grpc: str) -> None:
        self.url = f"http://{http}"
        self.http = http
        self.grpc = grpc

    async def completion(self, **body: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_SECONDS) as client:
            asked = {"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "ignore_eos": True, **body}
            response = await client.post("/v1/completions", json=asked)
            return response.raise_for_status().json()["choices"][0]

    async def load(self) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.url) as client:
            return (await client.get("/load")).json()


async def addresses_of(process: ServerProcess) -> Addresses:
    grpc_port = (await process.line(r"listening for gRPC on 127\.0\.0\.1, port (\d+)"))[1]
    http = (await process.url()).removeprefix("http://")
    await process.line("serving ernie, ")
    found = Addresses(http, f"127.0.0.1:{grpc_port}")

    async def ready() -> bool:
        async with httpx.AsyncClient(base_url=found.url) as client:
            return (await client.get("/v2/health/ready")).is_success

    await until(ready)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Addresses]:
    flags = ["--port=0", "--grpc-port=0", "--device=cpu", "--cpu-threads=1", "--max-model-len=1024", "--max-num-seqs=4"]
    arguments = ["-m", "wenxin_runtime", "serve", str(model_dir), "--served-model-name", MODEL, SLASHED, *flags]
    async with server_process(arguments, tmp_path_factory.mktemp("server")) as process:
        yield await addresses_of(process)


def blocking_http(served: Addresses, **asked: Any) -> Any:
    with contextlib.closing(triton_http.InferenceServerClient(served.http)) as client:
        assert client.is_server_live()
        assert client.is_model_ready(MODEL)
        return client.infer(MODEL, tensors(triton_http, **asked))


def blocking_grpc(served: Addresses, **asked: Any) -> Any:
    with triton_grpc.InferenceServerClient(served.grpc) as client:
        assert client.is_server_live()
        assert client.is_model_ready(MODEL)
        return client.infer(MODEL, tensors(triton_grpc, **asked))


def blocking_stream(served: Addresses, **asked: Any) -> Iterator[Any]:
    results: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(served.grpc) as client:
        client.start_stream(lambda result, error: results.put(error or result))
        client.async_stream_infer(MODEL, tensors(triton_grpc, stream=True, **asked))
        while True:
            result = results.get(timeout=TIMEOUT_SECONDS)
            assert not isinstance(result, Exception), result
            yield result
            if is_final(result):
                client.stop_stream()
                return


async def whole_answers(served: Addresses, **asked: Any) -> list[Any]:
    """Ask the same by each client."""
    async with triton_http_aio.InferenceServerClient(served.http) as over_http:
        found = [await over_http.infer(MODEL, tensors(triton_http_aio, **asked))]
    async with triton_grpc_aio.InferenceServerClient(served.grpc) as over_grpc:
        found.append(await over_grpc.infer(MODEL, tensors(triton_grpc_aio, **asked)))
    found.append(await asyncio.to_thread(blocking_http, served, **asked))
    found.append(await asyncio.to_thread(blocking_grpc, served, **asked))
    return found


async def test_every_client_gets_the_text_of_the_openai_api(served: Addresses) -> None:
    expected = await served.completion(temperature=0)
    answers = await whole_answers(served, **GREEDY)
    assert {text_of(each) for each in answers} == {expected["text"]}
    assert {finish_of(each) for each in answers} == {expected["finish_reason"]}


async def test_a_name_with_a_slash_is_a_name_like_any_other(served: Addresses) -> None:
    expected = (await served.completion(temperature=0))["text"]
    async with triton_http_aio.InferenceServerClient(served.http) as over_http:
        assert (await over_http.get_model_metadata(SLASHED))["name"] == SLASHED
        assert (await over_http.get_model_config(SLASHED, "1"))["name"] == SLASHED
        assert [each["name"] for each in await over_http.get_model_repository_index()] == [MODEL, SLASHED]
        answer = await over_http.infer(SLASHED, tensors(triton_http_aio, **GREEDY), model_version="1")
    assert text_of(answer) == expected
    async with triton_grpc_aio.InferenceServerClient(served.grpc) as over_grpc:
        assert text_of(await over_grpc.infer(SLASHED, tensors(triton_grpc_aio, **GREEDY))) == expected


async def test_a_seed_repeats_its_answer_over_every_protocol(served: Addresses) -> None:
    expected = await served.completion(temperature=1, seed=11)
    assert {text_of(each) for each in await whole_answers(served, **SEEDED)} == {expected["text"]}
    assert text_of((await whole_answers(served, **{**SEEDED, "seed": 12}))[0]) != expected["text"]


async def test_token_ids_ask_what_their_text_asks(served: Addresses) -> None:
    async with httpx.AsyncClient(base_url=served.url) as client:
        ids = (await client.post("/tokenize", json={"prompt": PROMPT})).json()["tokens"]
    asked = {name: value for name, value in GREEDY.items() if name != "text_input"}
    expected = await served.completion(temperature=0)
    assert {text_of(each) for each in await whole_answers(served, input_ids=ids, **asked)} == {expected["text"]}


async def test_the_pieces_of_a_stream_are_the_whole_answer(served: Addresses) -> None:
    expected = await served.completion(temperature=0)
    pieces = await asyncio.to_thread(lambda: list(blocking_stream(served, **GREEDY)))
    assert "".join(text_of(each) for each in pieces) == expected["text"]
    assert sum(len(each.as_numpy("token_ids")) for each in pieces) == 12
    assert len(pieces) > 1
    async with triton_grpc_aio.InferenceServerClient(served.grpc) as client:
        asked = {"model_name": MODEL, "inputs": tensors(triton_grpc_aio, stream=True, **GREEDY)}
        pieces = [result async for result, _ in client.stream_infer(requests(asked))]
    assert "".join(text_of(each) for each in pieces) == expected["text"]


async def test_sampling_parameters_may_come_as_the_vllm_backend_takes_them(served: Addresses) -> None:
    packed = json.dumps({"temperature": "0", "max_tokens": "12", "ignore_eos": True})
    answer = await asyncio.to_thread(blocking_grpc, served, text_input=PROMPT, sampling_parameters=packed)
    assert text_of(answer) == (await served.completion(temperature=0))["text"]


async def test_a_client_that_cancels_frees_its_sequence(served: Addresses) -> None:
    asked = {**GREEDY, "max_tokens": 900}

    async def free() -> bool:
        return (await served.load())["running"] == 0

    async with triton_grpc_aio.InferenceServerClient(served.grpc) as client:
        stream = client.stream_infer(
            requests({"model_name": MODEL, "inputs": tensors(triton_grpc_aio, stream=True, **asked)})
        )
        await anext(stream)
        assert (await served.load())["running"] == 1
        stream.cancel()
        await until(free)
