"""PromQL as the dashboards write it again and again: a metric of the chosen pods, its rate, its quantile, its mean."""

from dataclasses import dataclass

WINDOW = "$__rate_interval"
"""Grafana's: at least four scrapes."""


@dataclass(frozen=True)
class Scope:
    """Which series a dashboard is about.

    Attributes:
        matchers: As they stand between the braces.
    """

    matchers: str

    def __call__(self, metric: str, *more: str) -> str:
        """A metric of just these, matched by `more` too."""
        matchers = ", ".join(each for each in (self.matchers, *more) if each)
        return f"{metric}{{{matchers}}}" if matchers else metric

    def total(self, metric: str, *by: str, how: str = "sum", where: str = "") -> str:
        """A gauge added up, or its `max`, `min`, `avg`, for each value of the labels."""
        return f"{how}{_by(by)} ({self(metric, where)})"

    def rate(self, metric: str, *by: str, where: str = "") -> str:
        """How fast a counter grows, in its unit per second."""
        return f"sum{_by(by)} (rate({self(metric, where)}[{WINDOW}]))"

    def quantile(self, share: float, metric: str, *by: str) -> str:
        """A quantile of a histogram."""
        return f"histogram_quantile({share}, {self.rate(f'{metric}_bucket', 'le', *by)})"

    def mean(self, metric: str, *by: str) -> str:
        """The mean of what a histogram counted."""
        return f"{self.rate(f'{metric}_sum', *by)} / {self.rate(f'{metric}_count', *by)}"

    def share(self, metric: str, where: str, *by: str) -> str:
        """The part of a counter's growth that is matched by `where`."""
        return f"{self.rate(metric, *by, where=where)} / {self.rate(metric, *by)}"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
