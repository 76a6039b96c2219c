"""Requests and responses as JSON, some tensors as bytes behind it; and as /generate has them."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.http import encode_json
from wenxin_runtime.server.kserve import tensors
from wenxin_runtime.server.kserve.inference import CACHE, VERSION, Request, Response
from wenxin_runtime.server.kserve.tensors import BYTES, Tensor

LENGTH_HEADER = "Inference-Header-Content-Length"
_BINARY_SIZE, _BINARY_DATA, _BINARY_DEFAULT = "binary_data_size", "binary_data", "binary_data_output"
_UNSUPPORTED = ("shared_memory_region", "classification")
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)
_PROMPTS = {"text_input": BYTES, "input_ids": "INT64"}


class _InputTensor(Struct):
    name: str
    datatype: str
    shape: list[Annotated[int, Meta(ge=0, lt=2**31)]]
    parameters: dict[str, Any] = {}
    data: Any = None


class _OutputTensor(Struct):
    name: str
    parameters: dict[str, Any] = {}


class _InferRequest(Struct):
    inputs: list[_InputTensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_OutputTensor] = []


class Asked(NamedTuple):
    """A request, and which of its outputs should come as bytes; `binary_default` is of those that it does not name."""

    request: Request
    binary: frozenset[str]
    binary_default: bool


def read_infer(body: bytes, header_length: str | None, model: str, version: str) -> Asked:
    """Read the body of /infer.

    Args:
        body: JSON, with binary tensors behind it where there are some.
        header_length: Length of the JSON, where the client said it.
        model: From the path.
        version: From the path.

    Raises:
        InvalidRequest: says what is wrong, and names the tensor.
    """
    head, rest = _split(body, header_length)
    try:
        given = msgspec.json.decode(head, type=_InferRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the request is not as the protocol has it: {error}") from error
    told = [
        *((each.name, each.parameters) for each in given.inputs),
        *((each.name, each.parameters) for each in given.outputs),
    ]
    for name, parameters in told:
        refuse_unsupported(name, parameters)
    inputs = tuple(_inputs(given.inputs, rest))
    outputs = tuple(each.name for each in given.outputs)
    request = Request(model, version, given.id, given.parameters, inputs, outputs)
    binary_default = given.parameters.get(_BINARY_DEFAULT) is True
    binary = (each.name for each in given.outputs if each.parameters.get(_BINARY_DATA, binary_default) is True)
    return Asked(request, frozenset(binary), binary_default and not outputs)


def refuse_unsupported(tensor: str, parameters: Any) -> None:
    """Refuse what a tensor's parameters ask for in vain.

    Raises:
        InvalidRequest: names both.
    """
    for name in _UNSUPPORTED:
        if name in parameters:
            raise InvalidRequest(f"{tensor}: {name} is not supported by this server", param=tensor)


def write_infer(response: Response, asked: Asked) -> tuple[bytes, int | None]:
    """Spell the answer of /infer; return it and the length of its JSON, where bytes stand behind it."""
    described, chunks = [], []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if asked.binary_default or tensor.name in asked.binary:
            chunks.append(tensors.encode(tensor))
            entry["parameters"] = {_BINARY_SIZE: len(chunks[-1])}
        else:
            entry["data"] = _data(tensor)
        described.append(entry)
    body: dict[str, Any] = {"model_name": response.model, "model_version": VERSION, "outputs": described}
    if response.id:
        body["id"] = response.id
    if response.parameters:
        body["parameters"] = dict(response.parameters)
    head = encode_json(body)
    return b"".join((head, *chunks)), len(head) if chunks else None


def read_generate(body: bytes, model: str, version: str) -> Request:
    """Read the body of /generate and /generate_stream: tensors and parameters by their names, side by side.

    Raises:
        InvalidRequest: it is no JSON object.
    """
    try:
        given = msgspec.json.decode(body, type=dict[str, Any])
        parameters = msgspec.convert(given.pop("parameters", None), dict[str, Any] | None) or {}
        request_id = msgspec.convert(given.pop("id", ""), str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body must be a JSON object: {error}") from error
    inputs = [_prompt(name, given.pop(name)) for name in _PROMPTS if name in given]
    return Request(model, version, request_id, {**parameters, **given}, inputs)


def write_generate(response: Response) -> bytes:
    """Spell an answer, or a piece of one, as /generate has it: a tensor of one value as that value."""
    body: dict[str, Any] = {"model_name": response.model, "model_version": VERSION}
    if response.id:
        body["id"] = response.id
    if CACHE in response.parameters:
        body[CACHE] = response.parameters[CACHE]
    for tensor in response.outputs:
        values = _data(tensor)
        body[tensor.name] = values if tensor.name == "token_ids" else values[0]
    return encode_json(body)


def _prompt(name: str, given: Any) -> Tensor:
    values = given if isinstance(given, list) else [given]
    return tensors.of_values(name, _PROMPTS[name], [len(values)], values)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Part the JSON from the bytes behind it."""
    if header_length is None:
        return body, memoryview(b"")
    length = int(header_length) if _NUMBER.fullmatch(header_length) else -1
    if not 0 <= length <= len(body):
        given = header_length[:32]
        raise InvalidRequest(f"{LENGTH_HEADER} must be a length of at most {len(body)} bytes, got {given!r}")
    return body[:length], memoryview(body)[length:]


def _inputs(given: list[_InputTensor], rest: memoryview) -> Iterator[Tensor]:
    position = 0
    for each in given:
        size = each.parameters.get(_BINARY_SIZE)
        if size is None:
            yield tensors.of_values(each.name, each.datatype, each.shape, each.data)
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - position:
            left = len(rest) - position
            raise InvalidRequest(f"{each.name}: {_BINARY_SIZE} is {size!r}, but {left} bytes are left", param=each.name)
        yield tensors.decode(each.name, each.datatype, each.shape, bytes(rest[position : position + size]))
        position += size
    if position < len(rest):
        raise InvalidRequest(f"{len(rest) - position} bytes behind the request belong to no tensor")


def _data(tensor: Tensor) -> list[Any]:
    if tensor.datatype != BYTES:
        return list(tensor.values)
    return [value.decode("utf-8", "replace") for value in tensor.values if isinstance(value, bytes)]
