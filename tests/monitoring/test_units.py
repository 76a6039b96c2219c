"""Numbers are written as Grafana would write them."""

import math

import pytest

from monitoring.units import written


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0, "s", "0 s"),
        (2.5e-7, "s", "250 ns"),
        (0.000012, "s", "12 µs"),
        (0.01234, "s", "12.3 ms"),
        (90, "s", "90 s"),
        (600, "s", "10 min"),
        (36000, "s", "10 h"),
        (1536, "bytes", "1.5 KiB"),
        (3 * 2**30, "bytes", "3 GiB"),
        (0.123, "percentunit", "12.3 %"),
        (1234, "short", "1.23 K"),
        (12, "reqps", "12 req/s"),
        (0.5, "ops", "0.5 /s"),
        (3, "none", "3"),
        (math.nan, "s", "–"),
    ],
)
def test_a_value_is_three_digits_and_its_unit(value: float, unit: str, words: str) -> None:
    assert written(value, unit) == words
