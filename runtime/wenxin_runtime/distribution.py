"""Histograms that cost one bisection per value, however many sequences share it.

prometheus_client's own takes a lock and walks the buckets for every value: 0.2 ms for each step of 256 streams, in the
thread that has to write to all of them. Here the thread that observes also answers /metrics, so there is no lock, and
equal values, which the gaps of one step mostly are, are added at once.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Distribution:
    """How often values fell between which bounds. A bound belongs to the bucket that it ends."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    @property
    def sum(self) -> float:
        """The sum of all values."""
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Return upper bounds and the number of values up to each, as the text format wants them."""
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))


class Histogram(Collector):
    """One metric: a distribution for each value of its label, or a single one; all there from the start, at zero."""

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds: Sequence[float],
        *,
        registry: CollectorRegistry,
        label: str | None = None,
        values: Sequence[str] = ("",),
    ) -> None:
        """Register `name`. Without a `label` the only distribution is that of the value ""."""
        self._name = name
        self._documentation = documentation
        self._labels = [] if label is None else [label]
        self._of = {value: Distribution(bounds) for value in values}
        registry.register(self)

    def __getitem__(self, value: str) -> Distribution:
        return self._of[value]

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value of a histogram without label."""
        self._of[""].observe(value, times)

    def collect(self) -> Iterator[Metric]:
        """Give the metric as it stands."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for value, distribution in self._of.items():
            labels = [value] if self._labels else []
            family.add_metric(labels, distribution.buckets(), distribution.sum)
        yield family
