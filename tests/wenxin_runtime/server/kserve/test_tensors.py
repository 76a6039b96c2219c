"""The binary tensor extension: what is spelled is read again, and nothing else is read."""

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.kserve.tensors import BYTES, FLOATS, INTEGERS, Tensor, decode, encode, of_values

FIXED = sorted(INTEGERS | FLOATS | {"BOOL"})


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == BYTES:
        return st.binary(max_size=40)
    if datatype == "BOOL":
        return st.booleans()
    if datatype in FLOATS:
        return st.floats(width=int(datatype[2:]), allow_nan=False)
    limits = np.iinfo(triton_to_np_dtype(datatype))
    return st.integers(int(limits.min), int(limits.max))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from([*FIXED, BYTES]))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = math.prod(shape)
    return datatype, shape, draw(st.lists(values_of(datatype), min_size=count, max_size=count))


@given(tensors())
def test_what_is_spelled_is_read_again(drawn: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, values = drawn
    tensor = of_values("t", datatype, shape, values)
    assert decode("t", datatype, shape, encode(tensor)) == tensor
    assert list(tensor.values) == values


@given(tensors())
def test_the_bytes_are_those_of_tritonclient(drawn: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, values = drawn
    raw = encode(of_values("t", datatype, shape, values))
    if datatype == BYTES:
        theirs = np.array(values, dtype=np.object_)
        assert raw == (serialize_byte_tensor(theirs).item() if values else b"")
        assert list(deserialize_bytes_tensor(raw)) == values
    else:
        assert raw == np.array(values, dtype=triton_to_np_dtype(datatype)).tobytes()


def decoded(name: str, *arguments: Any) -> Tensor | InvalidRequest:
    try:
        return decode(name, *arguments)
    except InvalidRequest as error:
        return error


@given(st.sampled_from([*FIXED, BYTES]), st.lists(st.integers(0, 2**40), max_size=3), st.binary(max_size=64))
def test_any_bytes_are_a_tensor_or_an_error_that_names_it(datatype: str, shape: list[int], raw: bytes) -> None:
    found = decoded("weird", datatype, shape, raw)
    if isinstance(found, InvalidRequest):
        assert (found.param, "weird" in found.message) == ("weird", True)
    else:
        assert len(found.values) == math.prod(shape)
        if datatype != "BOOL":  # any byte but 0 is true
            assert encode(found) == raw or datatype in FLOATS


@given(st.recursive(st.integers(0, 9), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_nested_json_is_read_in_row_major_order(data: Any) -> None:
    flat = [int(digit) for digit in str(data) if digit.isdigit()]
    assert list(of_values("t", "INT32", [len(flat)], data).values) == flat


def test_nesting_of_any_depth_is_read() -> None:
    data: Any = 7
    for _ in range(100_000):
        data = [data]
    assert of_values("t", "INT32", [1], data).values == (7,)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("INT32", [1], [1.5]),
        ("INT32", [1], [True]),
        ("INT32", [1], [2**31]),
        ("UINT8", [1], [-1]),
        ("BOOL", [1], [1]),
        ("FP32", [1], ["1"]),
        ("FP32", [1], [1e300]),
        ("BYTES", [1], [1]),
        ("INT32", [2], [1]),
        ("INT32", [-1], [1]),
        ("INT32", [1], None),
        ("BF16", [1], [1.0]),
        ("STRING", [1], ["a"]),
    ],
)
def test_data_that_does_not_fit_is_refused_by_the_tensors_name(datatype: str, shape: list[int], data: Any) -> None:
    with pytest.raises(InvalidRequest, match="t: ") as refused:
        of_values("t", datatype, shape, data)
    assert refused.value.param == "t"


@pytest.mark.parametrize("raw", [b"\1", b"\2\0\0\0a", struct.pack("<I", 2**32 - 1) + b"a", b"\1\0\0\0ab"])
def test_bytes_that_end_within_a_value_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="t: "):
        decode("t", BYTES, [1], raw)
