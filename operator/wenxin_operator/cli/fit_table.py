"""Which cards a model fits, in which layouts, and how many sequences it then serves: as text or JSON. Pure."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from wenxin_operator import fit
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.cli.table import table
from wenxin_operator.fit import Demand, Layout, Settled, Verdict

_HEAD = (
    "CARD", "GPUS", "TENSOR", "DATA", "EXPERT", "NODES",
    "WEIGHTS/GPU", "STEP/GPU", "KV/TOKEN", "KV CACHE/GPU", "CONCURRENCY",
)  # fmt: skip


def render(name: str, facts: ModelFacts, demand: Demand, settled: Settled, card: str | None = None) -> str:
    """One line for each card, with the smallest layout that does; for one card, one line for each layout.

    A line says what each GPU holds, and the concurrency of the whole replica.
    """
    quantized = f", {demand.quantization} weights" if demand.quantization != "none" else ""
    head = f"{name}: {demand.dtype}{quantized}, {demand.concurrency} x {demand.context} tokens at the same time"
    return f"{head}; at most {settled.gpus_of_a_node} GPUs of a node\n\n" + table(
        _HEAD, _rows(facts, demand, settled, card)
    )


def as_json(name: str, facts: ModelFacts, demand: Demand, settled: Settled, card: str | None = None) -> str:
    """The same for programs, with every layout of every card; sizes in bytes, of each GPU."""
    found = {
        each: {"bytes": fit.CARDS[each], "layouts": [_fields(one) for one in _all(facts, demand, settled, each)]}
        for each in _cards(card)
    }
    asked = {"context": demand.context, "concurrency": demand.concurrency}
    kept = {"dtype": demand.dtype, "quantization": demand.quantization}
    return json.dumps({"model": name, **asked, **kept, "cards": found}, indent=2)


def fits_some(facts: ModelFacts, demand: Demand, settled: Settled, card: str | None = None) -> bool:
    """Whether any card will do."""
    return any(each.fits for name in _cards(card) for each in _all(facts, demand, settled, name))


def _rows(facts: ModelFacts, demand: Demand, settled: Settled, card: str | None) -> Iterator[tuple[str, ...]]:
    for name in _cards(card):
        found = _all(facts, demand, settled, name)
        shown = found if card else [next((each for each in found if each.fits), found[-1])]
        for each in shown:
            yield name, *_layout_cells(each.layout), *_size_cells(each)


def _cards(card: str | None) -> Iterable[str]:
    return (card,) if card else fit.CARDS


def _all(facts: ModelFacts, demand: Demand, settled: Settled, card: str) -> list[Verdict]:
    return fit.judged(facts, demand, fit.CARDS[card], settled)


def _layout_cells(layout: Layout) -> tuple[str, ...]:
    return (
        str(layout.gpus),
        str(layout.tensor),
        str(layout.data),
        "yes" if layout.expert else "no",
        str(layout.nodes),
    )


def _size_cells(each: Verdict) -> tuple[str, ...]:
    found = each.footprint
    left = f"lacks {_gib(each.missing)}" if each.missing else _gib(each.kv_cache)
    per_token = f"{found.kv_per_token / 2**10:.0f} KiB"
    return _gib(found.weights), _gib(found.step), per_token, left, "-" if each.missing else str(each.concurrency)


def _fields(each: Verdict) -> dict[str, Any]:
    layout, found = each.layout, each.footprint
    parallelism = {
        "tensor": layout.tensor,
        "data": layout.data,
        "expert": layout.expert,
        "redundantExperts": layout.redundant_experts,
        "nodes": layout.nodes,
    }
    return {
        "parallelism": parallelism,
        "gpus": layout.gpus,
        "fits": each.fits,
        "weightBytes": found.weights,
        "stepBytes": found.step,
        "kvBytesPerToken": found.kv_per_token,
        "kvCacheBytes": max(0, each.kv_cache),
        "missingBytes": each.missing,
        "concurrency": each.concurrency,
    }


def _gib(count: int) -> str:
    return f"{count / fit.GIB:.1f} GiB"
