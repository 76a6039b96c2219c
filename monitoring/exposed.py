"""Which metrics there are, with their labels once they are scraped: what dashboards and rules are held to."""

from collections.abc import Iterable, Iterator, Mapping

from docs.reference_metrics import Family, operator_families, runtime_families
from monitoring import targets
from monitoring.promql import Reading, read
from monitoring.rules import Group, Recording
from monitoring.targets import Target

PROCESS = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)
"""What prometheus_client tells of every process on Linux."""

BY_PROMETHEUS = ("scrape_duration_seconds", "up")
"""What Prometheus itself says of every target."""

Known = Mapping[str, frozenset[str]]
"""Name of a series -> its labels."""


def known(groups: Iterable[Group]) -> Known:
    """Every name that a query may use, what `groups` record included."""
    found: dict[str, frozenset[str]] = {"ALERTS": frozenset({"alertname", "alertstate", "severity", *_everywhere()})}
    for target, families in ((targets.RUNTIME, runtime_families()), (targets.OPERATOR, operator_families())):
        found |= dict(_scraped(target, families))
    for name in (*PROCESS, *BY_PROMETHEUS):
        found[name] = _everywhere()
    for rule in (rule for group in groups for rule in group.rules):
        if isinstance(rule, Recording):
            found[rule.record] = read(rule.expr).grouped
    return found


def unknown(expression: str, names: Known) -> Iterator[str]:
    """What an expression names and nothing exposes, in words."""
    reading = read(expression)
    for selector in reading.selectors:
        if selector.metric not in names:
            yield f"there is no metric {selector.metric or '(without a name)'}"
            continue
        missing = {*selector.labels} - names[selector.metric]
        yield from (f"{selector.metric} has no label {label}" for label in sorted(missing))
    carried = _labels_of(reading, names)
    yield from (f"nothing in it has the label {label}" for label in sorted(reading.grouped - carried))


def labels_of(expression: str, names: Known) -> frozenset[str]:
    """Labels that the answers may carry: what it groups by, or all that its metrics have."""
    reading = read(expression)
    return reading.grouped or _labels_of(reading, names)


def _labels_of(reading: Reading, names: Known) -> frozenset[str]:
    return frozenset(label for metric in reading.metrics for label in names.get(metric, ()))


def _scraped(target: Target, families: Iterable[Family]) -> Iterator[tuple[str, frozenset[str]]]:
    for family in families:
        labels = frozenset(family.labels) | target.label_names
        if family.kind == "histogram":
            yield f"{family.name}_bucket", labels | {"le"}
            yield f"{family.name}_sum", labels
            yield f"{family.name}_count", labels
        else:
            yield family.name, labels


def _everywhere() -> frozenset[str]:
    return targets.RUNTIME.label_names | targets.OPERATOR.label_names
