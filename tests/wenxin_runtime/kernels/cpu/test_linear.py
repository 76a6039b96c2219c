import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wenxin_runtime.kernels.cpu.nearness import close
from wenxin_runtime.kernels.cpu.kernels import CpuKernels
from wenxin_runtime.kernels.cpu.packing import GROUP, Kind, kind_for, pack

# Activations are rounded to 16 bits beside their group's greatest: far below what the weights lose.
INT8_TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 2e-2}


def as_int8(weight):
    """What weight [out, in] is worth after rounding to 8 bits."""
    groups = F.pad(weight.float(), (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    scales = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return ((groups / scales).round() * scales).flatten(1)[:, : weight.shape[1]]


def exact(x, weight, bias):
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


def test_equals_the_reference_for_every_number_of_rows(kernels, dtype):
    weight = torch.randn(130, 256).to(dtype)
    linear = kernels.linear(weight)
    for rows in range(1, 41):
        x = torch.randn(rows, 256).to(dtype)
        close(linear(x), exact(x, weight, None))


@pytest.mark.parametrize(("out", "inputs"), [(1, 1), (3, 7), (64, 128), (65, 129), (70, 33), (200, 500), (17, 1030)])
@pytest.mark.parametrize("rows", [1, 5, 17])
def test_equals_the_reference_for_sizes_that_fill_no_panel(kernels, dtype, out, inputs, rows):
    x, weight, bias = (
        torch.randn(rows, inputs).to(dtype),
        torch.randn(out, inputs).to(dtype),
        torch.randn(out).to(dtype),
    )
    close(kernels.linear(weight, bias)(x), exact(x, weight, bias))


@pytest.mark.parametrize(("out", "inputs"), [(1, 1), (70, 33), (64, 128), (130, 500)])
@pytest.mark.parametrize("rows", [1, 4, 13, 40])
def test_int8_loses_only_what_rounding_the_weights_does(int8, dtype, out, inputs, rows):
    x, weight, bias = torch.randn(rows, inputs).to(dtype), torch.randn(out, inputs), torch.randn(out)
    close(int8.linear(weight, bias)(x), exact(x, as_int8(weight), bias), INT8_TOLERANCE[dtype])


def test_the_rounded_weights_are_within_a_254th_of_their_groups_range(int8):
    weight = torch.randn(64, 128)
    values = int8.linear(weight)(torch.eye(128)).T
    steps = weight.unflatten(1, (-1, GROUP)).abs().amax(-1).repeat_interleave(GROUP, 1) / 127
    assert ((values - weight).abs() <= steps * 0.501).all()


@pytest.mark.parametrize("kind", ["float32", "float32 of bfloat16 values", "bfloat16", "int8"])
def test_a_rows_result_does_not_depend_on_the_rows_beside_it(kernels, int8, kind):
    weight = torch.randn(130, 520)
    if "bfloat16" in kind:
        weight = weight.bfloat16().to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    linear = (int8 if kind == "int8" else kernels).linear(weight, torch.randn(130))
    x = torch.randn(37, 520).to(weight.dtype)
    alone = torch.cat([linear(row[None]) for row in x])
    for rows in (2, 3, 7, 13, 25, 37):
        assert torch.equal(linear(x[:rows]), alone[:rows])


def test_float32_weights_of_bfloat16_values_give_the_very_same_bits_in_half_the_memory(kernels, monkeypatch):
    weight, x = torch.randn(130, 300).bfloat16().float(), torch.randn(14, 300)
    packed = kernels.linear(weight)(x)
    monkeypatch.setattr("wenxin_runtime.kernels.cpu.kernels.kind_for", lambda *_, **__: Kind.FLOAT32)
    assert torch.equal(kernels.linear(weight)(x), packed)
    sizes = [pack(weight, kind).panels.nbytes for kind in (Kind.BFLOAT16, Kind.FLOAT32)]
    assert sizes[0] * 2 == sizes[1]


def test_a_single_value_that_is_no_bfloat16_keeps_a_weight_in_float32():
    weight = torch.randn(8, 8).bfloat16().float()
    assert kind_for([weight], int8=False) == Kind.BFLOAT16
    weight[3, 4] = 0.1
    assert kind_for([weight], int8=False) == Kind.FLOAT32


def test_rows_with_a_stride_and_columns_with_one_are_read_where_they_lie(kernels, dtype):
    weight, wide = torch.randn(64, 64).to(dtype), torch.randn(6, 100).to(dtype)
    linear = kernels.linear(weight)
    assert torch.equal(linear(wide[:, 10:74]), linear(wide[:, 10:74].contiguous()))
    across = torch.randn(64, 6).to(dtype).T
    assert torch.equal(linear(across), linear(across.contiguous()))


def test_no_rows_give_no_rows(kernels):
    assert kernels.linear(torch.randn(64, 32))(torch.randn(0, 32)).shape == (0, 64)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_shows_and_spoils_no_other(kernels, int8, dtype, poison):
    x, weight = torch.randn(3, 128).to(dtype), torch.randn(64, 128).to(dtype)
    clean = x.clone()
    x[1, 70] = poison
    for each in (kernels, int8):
        linear = each.linear(weight)
        assert not linear(x)[1].isfinite().any()
        assert torch.equal(linear(x)[[0, 2]], linear(clean)[[0, 2]])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 30),
    out=st.integers(1, 140),
    inputs=st.integers(1, 300),
    seed=st.integers(0, 2**31),
    eight=st.booleans(),
    narrow=st.booleans(),
)
def test_any_shape_in_any_kind_equals_the_reference(compiled, rows, out, inputs, seed, eight, narrow):
    dice = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if narrow else torch.float32
    x = torch.randn(rows, inputs, generator=dice).to(dtype)
    weight = torch.randn(out, inputs, generator=dice).to(dtype)
    got = CpuKernels(compiled, int8=eight).linear(weight)(x)
    wanted = exact(x, as_int8(weight) if eight else weight, None)
    # Beside the size of the terms, as a sum of both signs may be small.
    scale = float((x.double().abs() @ weight.double().abs().T).max())
    assert float((got.double() - wanted).abs().max()) <= scale * (1e-2 if narrow else 3e-5 if eight else 1e-6)
