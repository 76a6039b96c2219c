"""Which tensors and parameters a request may hold, and the completion that they ask for.

Names are those of Triton's vLLM backend where it has one; the others are the OpenAI API's. A value may come as a
tensor, inside `sampling_parameters`, or as a parameter of the request; in this order, the first counts.
"""

import ctypes
import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.kserve.tensors import BYTES, FLOATS, INTEGERS, Tensor
from wenxin_runtime.server.openai.parsing import parse
from wenxin_runtime.server.openai.schemas import CompletionRequest

_encode = msgspec.json.Encoder().encode


class Kind(enum.Enum):
    """What an input is, and the datatypes it may have; the first is the one that is told."""

    TEXT = (BYTES,)
    FLAG = ("BOOL",)
    INTEGER = ("INT32", *sorted(INTEGERS - {"INT32"}))
    LONG = ("INT64", *sorted(INTEGERS - {"INT64"}))
    NUMBER = ("FP32", *sorted((FLOATS | INTEGERS) - {"FP32"}))
    IDS = ("INT32", "INT64", "UINT32")

    def __init__(self, *datatypes: str) -> None:
        self.datatypes = datatypes


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor: any number of values where `dims` is -1, else that many."""

    name: str
    kind: Kind
    dims: int = 1


@dataclass(frozen=True, slots=True)
class Output:
    """One output tensor."""

    name: str
    datatype: str
    dims: int = 1


INPUTS = (
    Input("text_input", Kind.TEXT),
    Input("input_ids", Kind.IDS, -1),
    Input("stream", Kind.FLAG),
    Input("sampling_parameters", Kind.TEXT),
    Input("exclude_input_in_output", Kind.FLAG),
    Input("max_tokens", Kind.INTEGER),
    Input("min_tokens", Kind.INTEGER),
    Input("temperature", Kind.NUMBER),
    Input("top_p", Kind.NUMBER),
    Input("top_k", Kind.INTEGER),
    Input("min_p", Kind.NUMBER),
    Input("seed", Kind.LONG),
    Input("presence_penalty", Kind.NUMBER),
    Input("frequency_penalty", Kind.NUMBER),
    Input("repetition_penalty", Kind.NUMBER),
    Input("stop", Kind.TEXT, -1),
    Input("ignore_eos", Kind.FLAG),
    Input("logprobs", Kind.INTEGER),
    # Triton's vLLM backend gives these outputs on demand; here they come always, or with `logprobs`.
    Input("return_finish_reason", Kind.FLAG),
    Input("return_logprobs", Kind.FLAG),
    Input("return_num_input_tokens", Kind.FLAG),
    Input("return_num_output_tokens", Kind.FLAG),
)
OUTPUTS = (
    Output("text_output", BYTES),
    Output("token_ids", "INT32", -1),
    Output("finish_reason", BYTES),
    Output("num_input_tokens", "UINT32"),
    Output("num_output_tokens", "UINT32"),
    Output("logprobs", BYTES),
)
_PROMPTS = ("text_input", "input_ids")
_BY_NAME = {each.name: each for each in INPUTS}
_OUTPUT_NAMES = tuple(each.name for each in OUTPUTS)
_OWN = {"text_input", "input_ids", "sampling_parameters", "exclude_input_in_output"}
_FIELDS = frozenset(CompletionRequest.__struct_fields__) - {"prompt", "model"}


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks for.

    Attributes:
        completion: The same, as the OpenAI API has it.
        prompt: The tensor that the prompt came in.
        outputs: The tensors that are to come back.
    """

    completion: CompletionRequest
    prompt: str
    outputs: frozenset[str]


def read(
    inputs: Sequence[Tensor], parameters: Mapping[str, Any], outputs: Sequence[str], *, stream: bool = False
) -> Question:
    """Understand a request; `stream` is what it means where it does not say.

    Raises:
        InvalidRequest: names the tensor or the parameter at fault.
    """
    given = _by_name(inputs)
    prompt = _prompt_name(given)
    fields = {"stream": stream, **_fields(given, parameters)}
    text_or_ids = _value(given[prompt])
    if fields.pop("exclude_input_in_output", True) is False:
        fields["echo"] = True
    if fields.get("n") not in (None, 1):
        raise InvalidRequest("n: a request of this protocol has one answer", param="n")
    wanted = _wanted(outputs, scored=fields.get("logprobs") is not None)
    return Question(parse(_encode({**fields, "prompt": text_or_ids}), CompletionRequest), prompt, wanted)


def _by_name(inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for tensor in inputs:
        name = tensor.name
        if name not in _BY_NAME:
            known = ", ".join(_BY_NAME)
            raise InvalidRequest(f"unexpected input tensor {name[:100]!r}; this model takes {known}", param=name)
        if name in found:
            raise InvalidRequest(f"{name}: the tensor is there twice", param=name)
        _check(tensor, _BY_NAME[name])
        found[name] = tensor
    return found


def _check(tensor: Tensor, expected: Input) -> None:
    name, datatypes = tensor.name, expected.kind.datatypes
    if tensor.datatype not in datatypes:
        raise InvalidRequest(f"{name}: the datatype must be {datatypes[0]}, got {tensor.datatype}", param=name)
    if len(tensor.shape) != 1 or expected.dims not in (-1, tensor.shape[0]):
        shape = "[n]" if expected.dims == -1 else f"[{expected.dims}]"
        raise InvalidRequest(f"{name}: the shape must be {shape}, got {list(tensor.shape)}", param=name)


def _prompt_name(given: Mapping[str, Tensor]) -> str:
    found = [name for name in _PROMPTS if name in given]
    if len(found) != 1:
        raise InvalidRequest(f"send one of {' and '.join(_PROMPTS)}, got {' and '.join(found) or 'neither'}")
    return found[0]


def _fields(given: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what is said of how to generate, the strongest source last."""
    known = {name: value for name, value in parameters.items() if name in _FIELDS | _OWN - set(_PROMPTS)}
    tensors = {name: _value(tensor) for name, tensor in given.items() if name not in _PROMPTS}
    packed = tensors.pop("sampling_parameters", None) or known.pop("sampling_parameters", None)
    fields = {**known, **_unpacked(packed), **tensors}
    return {name: _typed(name, value) for name, value in fields.items() if not name.startswith("return_")}


def _unpacked(packed: Any) -> dict[str, Any]:
    """Read `sampling_parameters`: an object, mostly as JSON text."""
    if packed is None:
        return {}
    name = "sampling_parameters"
    try:
        found = packed if isinstance(packed, dict) else msgspec.json.decode(packed)
    except (msgspec.DecodeError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{name} is no JSON: {error}", param=name) from error
    if not isinstance(found, dict) or _OWN & found.keys() or "prompt" in found:
        raise InvalidRequest(f"{name} must be an object of sampling parameters", param=name)
    return found


def _typed(name: str, value: Any) -> Any:
    """Read a number or a flag that came as text: Triton's own examples write "0.1".

    Raises:
        InvalidRequest: it is none, or a number that JSON, which it goes on as, cannot hold.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{name} must be a finite number", param=name)
    kind = _BY_NAME[name].kind if name in _BY_NAME else None
    if not isinstance(value, str) or kind in (None, Kind.TEXT):
        return value
    try:
        return msgspec.json.decode(value.strip().lower())
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"{name}: {value[:32]!r} is not what it takes", param=name) from error


def _value(tensor: Tensor) -> Any:
    """Give a tensor's meaning as JSON has it."""
    expected = _BY_NAME[tensor.name]
    if tensor.name == "input_ids":
        return _ids(tensor.values)
    if tensor.datatype == BYTES:
        values: list[Any] = list(_texts(tensor))
    elif tensor.datatype in FLOATS:
        values = [_as_written(tensor.name, float(value), tensor.datatype) for value in tensor.values]
    else:
        values = list(tensor.values)
    return values if expected.dims == -1 else values[0]


def _ids(values: Sequence[Any]) -> Sequence[int]:
    if not values:
        raise InvalidRequest("input_ids must not be empty", param="input_ids")
    if min(values) < 0:
        raise InvalidRequest(f"input_ids: token id {min(values)} is negative", param="input_ids")
    return values


def _texts(tensor: Tensor) -> Iterator[str]:
    for value in tensor.values:
        try:
            yield value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{tensor.name}: the text is not valid UTF-8", param=tensor.name) from error


def _as_written(name: str, value: float, datatype: str) -> float:
    """Return the shortest decimal that this float stands for: 0.7, where FP32 makes 0.699999988 of it.

    So the same request has the same answer, and the same place in the answer cache, whatever protocol it comes by.
    """
    if not math.isfinite(value):
        raise InvalidRequest(f"{name} must be a finite number", param=name)
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 10 if datatype == "FP32" else 1))
    return next((each for each in shorter if ctypes.c_float(each).value == value), value)


def _wanted(outputs: Sequence[str], *, scored: bool) -> frozenset[str]:
    unknown = next((name for name in outputs if name not in _OUTPUT_NAMES), None)
    if unknown is not None:
        given = ", ".join(_OUTPUT_NAMES)
        raise InvalidRequest(f"unexpected output tensor {unknown[:100]!r}; this model gives {given}", param=unknown)
    if "logprobs" in outputs and not scored:
        raise InvalidRequest("logprobs: the output needs the input of this name", param="logprobs")
    return frozenset(outputs or (name for name in _OUTPUT_NAMES if name != "logprobs" or scored))
