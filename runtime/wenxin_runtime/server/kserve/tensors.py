"""Tensors as they travel: the protocol's datatypes, and their values as bytes.

A tensor's bytes are its values in row-major order, little-endian, without padding; of BYTES, each value behind its
length in four bytes. See "Binary Tensor Data Extension" of the KServe v2 protocol.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from wenxin_runtime.errors import InvalidRequest

BYTES = "BYTES"
_LENGTH = struct.Struct("<I")
# Nothing here has more than one; the product of a million sizes, which fit into one request, takes minutes.
_MOST_DIMENSIONS = 8
# Of Python's struct module; BF16 has no letter there, and nothing here needs it.
_LETTERS = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
INTEGERS = frozenset(name for name in _LETTERS if name.startswith(("INT", "UINT")))
FLOATS = frozenset(name for name in _LETTERS if name.startswith("FP"))

Value: TypeAlias = bool | int | float | bytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor; `values` are in row-major order, as many as `shape` says."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: tuple[Value, ...]


def encode(tensor: Tensor) -> bytes:
    """Spell a tensor's values as bytes."""
    if tensor.datatype != BYTES:
        return struct.pack(f"<{len(tensor.values)}{_LETTERS[tensor.datatype]}", *tensor.values)
    return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.values if isinstance(value, bytes))


def decode(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
    """Read what `encode` spells.

    Raises:
        InvalidRequest: the bytes are not those of such a tensor; names it.
    """
    count = _count(name, datatype, shape)
    values = tuple(_bytes_values(name, raw)) if datatype == BYTES else _numbers(name, datatype, count, raw)
    return _whole(name, datatype, shape, values)


def of_values(name: str, datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    """Take values as JSON or a typed message has them, nested by dimension or flat.

    Raises:
        InvalidRequest: they are not of this datatype, or not as many as the shape says; names the tensor.
    """
    _count(name, datatype, shape)
    values = tuple(_flat(data))
    if datatype == BYTES:
        if not all(isinstance(value, str | bytes) for value in values):
            raise InvalidRequest(f"{name}: the data of a BYTES tensor must be strings", param=name)
        texts = tuple(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in values)
        return _whole(name, datatype, shape, texts)
    kinds = (bool,) if datatype == "BOOL" else (int,) if datatype in INTEGERS else (int, float)
    if not all(isinstance(value, kinds) and (datatype == "BOOL" or not isinstance(value, bool)) for value in values):
        raise InvalidRequest(f"{name}: the data is not of datatype {datatype}", param=name)
    try:
        struct.pack(f"<{len(values)}{_LETTERS[datatype]}", *values)
    except (struct.error, OverflowError) as error:
        raise InvalidRequest(f"{name}: a value is out of the range of {datatype}", param=name) from error
    return _whole(name, datatype, shape, values)


def text(name: str, value: str) -> Tensor:
    """Make a tensor of one text."""
    return Tensor(name, BYTES, (1,), (value.encode("utf-8", "surrogatepass"),))


def numbers(name: str, datatype: str, values: Sequence[int]) -> Tensor:
    """Make a tensor of one dimension."""
    return Tensor(name, datatype, (len(values),), tuple(values))


def _count(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Return how many values there are.

    Raises:
        InvalidRequest: unknown datatype, or a shape that none has.
    """
    if datatype != BYTES and datatype not in _LETTERS:
        raise InvalidRequest(f"{name}: the datatype {datatype[:32]!r} is not supported", param=name)
    if len(shape) > _MOST_DIMENSIONS:
        raise InvalidRequest(f"{name}: a shape has at most {_MOST_DIMENSIONS} dimensions, got {len(shape)}", param=name)
    if any(size < 0 for size in shape):
        raise InvalidRequest(f"{name}: no dimension of a shape may be negative, got {list(shape)}", param=name)
    return math.prod(shape)


def _whole(name: str, datatype: str, shape: Sequence[int], values: tuple[Value, ...]) -> Tensor:
    if len(values) != math.prod(shape):
        raise InvalidRequest(
            f"{name}: shape {list(shape)} takes {math.prod(shape)} values, there are {len(values)}", param=name
        )
    return Tensor(name, datatype, tuple(shape), values)


def _numbers(name: str, datatype: str, count: int, raw: bytes) -> tuple[Value, ...]:
    size = count * struct.calcsize("<" + _LETTERS[datatype])
    if size != len(raw):
        raise InvalidRequest(f"{name}: {count} values of {datatype} are {size} bytes, there are {len(raw)}", param=name)
    return struct.unpack(f"<{count}{_LETTERS[datatype]}", raw)


def _bytes_values(name: str, raw: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(raw):
        begin = position + _LENGTH.size
        end = begin + (_LENGTH.unpack_from(raw, position)[0] if begin <= len(raw) else 0)
        if end > len(raw) or begin > len(raw):
            raise InvalidRequest(f"{name}: the bytes end within a value of the BYTES tensor", param=name)
        yield raw[begin:end]
        position = end


def _flat(data: Any) -> Iterator[Any]:
    """Walk through nested lists without recursion: their depth is the client's."""
    waiting = [iter([data])]
    while waiting:
        for part in waiting[-1]:
            if isinstance(part, list | tuple):
                waiting.append(iter(part))
                break
            yield part
        else:
            waiting.pop()
