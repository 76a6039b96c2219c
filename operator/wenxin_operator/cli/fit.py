"""Which cards a model fits, and how many sequences it then serves, as text. Pure."""

from collections.abc import Iterator

from wenxin_operator import fit
from wenxin_operator.api.status import ModelFacts

_WIDTHS = (10, 6, 13, 11, 14, 11)


def render(name: str, facts: ModelFacts, demand: fit.Demand) -> str:
    """One line for each card: the fewest GPUs that do, what each holds, and the concurrency that is left."""
    quantized = f", {demand.quantization} weights" if demand.quantization != "none" else ""
    head = f"{name}: {demand.dtype}{quantized}, {demand.concurrency} x {demand.context} tokens at the same time\n"
    rows = [("CARD", "GPUS", "WEIGHTS/GPU", "STEP/GPU", "KV CACHE/GPU", "CONCURRENCY"), *_rows(facts, demand)]
    return "\n".join([head, *("".join(map(str.ljust, row, _WIDTHS)).rstrip() for row in rows)])


def fits_some(facts: ModelFacts, demand: fit.Demand) -> bool:
    """Whether any card will do."""
    return any(_smallest(facts, demand, card).fits for card in fit.CARDS.values())


def _rows(facts: ModelFacts, demand: fit.Demand) -> Iterator[tuple[str, ...]]:
    for name, card in fit.CARDS.items():
        found = _smallest(facts, demand, card)
        if not found.fits:
            yield name, "-", f"{found.tensor} GPUs lack {_gib(found.missing)} each"
            continue
        sizes = (_gib(size) for size in (found.footprint.weights, found.footprint.step, found.kv_cache))
        yield name, str(found.tensor), *sizes, str(found.concurrency)


def _smallest(facts: ModelFacts, demand: fit.Demand, card: int) -> fit.Layout:
    """The fewest GPUs that fit, or the most that one node has."""
    found = [each for each in fit.layouts(facts, demand, card) if each.tensor <= fit.MOST_GPUS_OF_A_NODE]
    return next((each for each in found if each.fits), found[-1])


def _gib(count: int) -> str:
    return f"{count / fit.GIB:.1f} GiB"
