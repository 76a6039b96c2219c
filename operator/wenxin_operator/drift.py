"""Has somebody changed what we applied? Compares the planned fields with the live object's. Pure.

Only planned fields count: what the API server defaults, a webhook injects or another manager adds is not ours to judge.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from wenxin_operator.names import Raw

_QUANTITY = re.compile(r"^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|n|u)?$")
_SCALE: dict[str | None, Decimal] = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), None: Decimal(1),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}  # fmt: skip
_QUANTITIES_UNDER = frozenset({"limits", "requests", "sizeLimit", "storage", "capacity"})
_MERGE_KEYS = ("name", "mountPath", "containerPort", "port", "topologyKey", "type", "uid")
"""Fields that name an item of a list, as the API's own merge keys do; tried in this order."""

_WHOLE = frozenset({"selector", "matchLabels", "nodeSelector"})
"""Mappings that mean another thing with one more key in them; the API takes them whole, too."""


def drift(planned: Raw, live: Raw) -> str | None:
    """Find the first planned field that the live object does not hold.

    Returns:
        The field's path, such as `spec.ports[http].port`, or None where all planned fields are as planned.
    """
    return _difference(planned, live, "", quantity=False)


def quantity(text: str | float) -> Decimal | None:
    """Read a Kubernetes quantity as a plain number: `1000m` is 1, `1Gi` is 1073741824; None where it is none."""
    found = _QUANTITY.match(str(text))
    return Decimal(found[1]) * _SCALE[found[2]] if found else None


def _difference(planned: Any, live: Any, path: str, *, quantity: bool) -> str | None:
    if isinstance(planned, dict):
        return _in_mapping(planned, live, path, quantity=quantity)
    if isinstance(planned, list):
        return _in_list(planned, live, path, quantity=quantity)
    return None if planned == live or (quantity and _same_quantity(planned, live)) else path


def _in_mapping(planned: Raw, live: Any, path: str, *, quantity: bool) -> str | None:
    if not isinstance(live, dict):
        # The API server leaves out mappings that say nothing, such as `labels: {}`.
        return None if not planned and live is None else path
    for key in _WHOLE & planned.keys():
        if isinstance(live.get(key), dict) and live[key].keys() - planned[key].keys():
            return f"{path}.{key}" if path else key
    for key, value in planned.items():
        below = f"{path}.{key}" if path else key
        if found := _difference(value, live.get(key), below, quantity=quantity or key in _QUANTITIES_UNDER):
            return found
    return None


def _in_list(planned: Sequence[Any], live: Any, path: str, *, quantity: bool) -> str | None:
    if not isinstance(live, list):
        return None if not planned and live is None else path
    key = _merge_key(planned)
    if key is None:
        if len(planned) != len(live):
            return path
        pairs = [(f"{path}[{i}]", want, have) for i, (want, have) in enumerate(zip(planned, live, strict=True))]
    else:
        named = {item.get(key): item for item in live if isinstance(item, dict)}
        pairs = [(f"{path}[{item[key]}]", item, named.get(item[key])) for item in planned]
    return next(
        (found for where, want, have in pairs if (found := _difference(want, have, where, quantity=quantity))), None
    )


def _merge_key(items: Sequence[Any]) -> str | None:
    """The field that tells the items apart; None for a list of scalars or unnamed things, which is compared whole."""
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    for key in _MERGE_KEYS:
        values = [item.get(key) for item in items]
        if None not in values and len(set(map(str, values))) == len(values):
            return key
    return None


def _same_quantity(planned: Any, live: Any) -> bool:
    if not isinstance(planned, str | int | float) or not isinstance(live, str | int | float):
        return False
    want, have = quantity(planned), quantity(live)
    return want is not None and want == have
