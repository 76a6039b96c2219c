"""The server with both of its ports, and what tritonclient needs to ask it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest_asyncio
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http

from tests.wenxin_runtime.server.conftest import Running, running_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(model_dir: Path) -> AsyncIterator[Running]:
    """One server for all tests of a module that neither stop nor crowd it."""
    async with running_server(model_dir, grpc_port=0) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def over_http(server: Running) -> AsyncIterator[triton_http.InferenceServerClient]:
    async with triton_http.InferenceServerClient(server.server.url.removeprefix("http://")) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def over_grpc(server: Running) -> AsyncIterator[triton_grpc.InferenceServerClient]:
    async with grpc_client(server) as client:
        yield client


def grpc_client(server: Running) -> triton_grpc.InferenceServerClient:
    return triton_grpc.InferenceServerClient(f"127.0.0.1:{server.server.grpc_port}")


DTYPES: dict[type, tuple[str, Any]] = {
    str: ("BYTES", np.object_),
    bool: ("BOOL", np.bool_),
    float: ("FP32", np.float32),
}


def tensors(module: Any, **given: Any) -> list[Any]:
    """Make input tensors for one of tritonclient's modules: a list becomes INT32 numbers or texts, else one value."""
    return [_tensor(module, name, value) for name, value in given.items()]


def _tensor(module: Any, name: str, value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    datatype, dtype = DTYPES.get(type(values[0]), ("INT32", np.int32))
    if name == "seed":
        datatype, dtype = "INT64", np.int64
    tensor = module.InferInput(name, [len(values)], datatype)
    coded = [each.encode() if isinstance(each, str) else each for each in values]
    tensor.set_data_from_numpy(np.array(coded, dtype=dtype))
    return tensor


def text_of(result: Any) -> str:
    return result.as_numpy("text_output")[0].decode()


def finish_of(result: Any) -> str:
    return result.as_numpy("finish_reason")[0].decode()


def is_final(result: Any) -> bool:
    return result.get_response().parameters["triton_final_response"].bool_param


async def requests(*given: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for each in given:
        yield each


def events(text: str) -> Iterable[Any]:
    """Parse a stream of server-sent events."""
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]


async def answered(server: Running, pending: Any, text: str = "hello", **ending: Any) -> Any:
    """Let the engine answer, and return what it was asked and what the client got."""
    task = asyncio.ensure_future(pending)
    submit = await server.engine.submit()
    await server.engine.write(submit, *server.tokens(text), finish_reason="length", **ending)
    return submit, await task
