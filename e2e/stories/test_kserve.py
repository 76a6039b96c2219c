"""A team that comes from Triton asks its deployment with tritonclient."""

import queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from e2e.stories.endpoint import Endpoint


def test_tritonclient_streams_an_answer_over_grpc_through_the_service(tiny: Endpoint) -> None:
    tiny.apply(grpc=True)
    tiny.ready()
    with tiny.cluster.service(tiny.name, 8001, namespace=tiny.namespace) as url:
        pieces = _streamed(url.removeprefix("http://"), tiny.name, "你好", max_tokens=16)
    assert "".join(piece.as_numpy("text_output")[0].decode() for piece in pieces) == tiny.ask(max_tokens=16)
    assert sum(len(piece.as_numpy("token_ids")) for piece in pieces) == 16
    assert len(pieces) > 1


def test_tritonclient_asks_over_http_without_being_asked_for(tiny: Endpoint) -> None:
    with tiny.url() as url:
        client = triton_http.InferenceServerClient(url.removeprefix("http://"))
        assert client.is_model_ready(tiny.name)
        answer = client.infer(tiny.name, _inputs(triton_http, "你好"), parameters=_greedy(8))
        client.close()
    assert answer.as_numpy("text_output")[0].decode() == tiny.ask(max_tokens=8)


def _streamed(address: str, model: str, prompt: str, *, max_tokens: int) -> list[Any]:
    """Every response to one request, in order."""
    results: queue.Queue[Any] = queue.Queue()
    found: list[Any] = []
    with triton_grpc.InferenceServerClient(address) as client:
        assert client.is_server_ready()
        client.start_stream(lambda result, error: results.put(error or result))
        client.async_stream_infer(
            model, _inputs(triton_grpc, prompt), parameters={**_greedy(max_tokens), "stream": True}
        )
        while not (found and found[-1].get_response().parameters["triton_final_response"].bool_param):
            found.append(results.get(timeout=60))
            assert not isinstance(found[-1], Exception), found[-1]
        client.stop_stream()
    return found


def _inputs(module: Any, prompt: str) -> list[Any]:
    tensor = module.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([prompt.encode()], dtype=np.object_))
    return [tensor]


def _greedy(max_tokens: int) -> dict[str, Any]:
    return {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
