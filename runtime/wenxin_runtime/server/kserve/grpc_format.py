"""Requests and responses as protobuf messages."""

from collections.abc import Iterator, Mapping
from typing import Any

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.kserve import tensors
from wenxin_runtime.server.kserve.inference import FINAL, VERSION, Request, Response
from wenxin_runtime.server.kserve.json_format import refuse_unsupported
from wenxin_runtime.server.kserve.protos.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from wenxin_runtime.server.kserve.tensors import Tensor

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_infer(message: ModelInferRequest) -> Request:
    """Read a request.

    Raises:
        InvalidRequest: a tensor is not as it says; names it.
    """
    for tensor in (*message.inputs, *message.outputs):
        refuse_unsupported(tensor.name, tensor.parameters)
    return Request(
        message.model_name,
        message.model_version,
        message.id,
        _parameters(message.parameters),
        tuple(_inputs(message)),
        tuple(output.name for output in message.outputs),
    )


def write_infer(response: Response, *, streamed: bool) -> ModelInferResponse:
    """Spell a response; one of a stream says whether it is the last."""
    message = ModelInferResponse(model_name=response.model, model_version=VERSION, id=response.id)
    for name, value in response.parameters.items():
        message.parameters[name].string_param = str(value)
    if streamed:
        message.parameters[FINAL].bool_param = response.final
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensors.encode(tensor))
    return message


def _parameters(given: Mapping[str, InferParameter]) -> dict[str, Any]:
    found = ((name, value, value.WhichOneof("parameter_choice")) for name, value in given.items())
    return {name: getattr(value, choice) for name, value, choice in found if choice is not None}


def _inputs(message: ModelInferRequest) -> Iterator[Tensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs")
    for number, tensor in enumerate(message.inputs):
        name, datatype = tensor.name, tensor.datatype
        if raw:
            if tensor.HasField("contents"):
                raise InvalidRequest(f"{name}: contents and raw_input_contents exclude each other", param=name)
            yield tensors.decode(name, datatype, tensor.shape, raw[number])
        elif datatype in _CONTENTS:
            yield tensors.of_values(name, datatype, tensor.shape, list(getattr(tensor.contents, _CONTENTS[datatype])))
        else:
            raise InvalidRequest(f"{name}: data of datatype {datatype[:32]!r} must come as raw bytes", param=name)
