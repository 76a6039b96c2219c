"""Numbers as Grafana writes them: a unit's name -> words. Only the units that the dashboards use."""

import math

_SECONDS = ((1e-6, 1e-9, "ns"), (1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"))
_SUFFIX = {"reqps": " req/s", "ops": " /s"}


def written(value: float, unit: str) -> str:
    """A value with its unit, three digits long."""
    if math.isnan(value):
        return "–"
    if unit == "s":
        return _seconds(value)
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), " ")
    if unit == "percentunit":
        return f"{_digits(value * 100)} %"
    if unit == "none":
        return _digits(value)
    return _scaled(value, 1000, ("", " K", " Mil", " Bil"), "") + _SUFFIX.get(unit, "")


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    for below, unit, name in _SECONDS:
        if abs(value) < below:
            return f"{_digits(value / unit)} {name}"
    return f"{_digits(value / 3600)} h"


def _scaled(value: float, base: int, names: tuple[str, ...], space: str) -> str:
    step = 0
    while abs(value) >= base and step < len(names) - 1:
        value /= base
        step += 1
    return f"{_digits(value)}{space}{names[step]}"


def _digits(value: float) -> str:
    """Three digits that matter, without trailing zeros."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}"
