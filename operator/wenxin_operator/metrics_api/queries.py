"""A request's path and label selector -> what is asked. Pure.

The paths are those of https://github.com/kubernetes/design-proposals-archive/blob/main/instrumentation/custom-metrics-api.md,
the selectors those of k8s.io/apimachinery/pkg/labels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

GROUP = "custom.metrics.k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
"""The preferred one first."""
PODS = "pods"
EVERY = "*"

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """A metric of one pod, or of all that a selector selects.

    Attributes:
        resource: What it is about; only pods have metrics here.
        name: The pod's; EVERY for all.
    """

    version: str
    namespace: str
    resource: str
    name: str
    metric: str


def parse(path: str) -> MetricQuery | None:
    """Read a path below /apis/custom.metrics.k8s.io; None where it asks for no namespaced object's metric."""
    parts = path.strip("/").split("/")
    if len(parts) != 8 or parts[:2] != ["apis", GROUP] or parts[2] not in VERSIONS or parts[3] != "namespaces":
        return None
    version, namespace, resource, name, metric = parts[2], *parts[4:]
    return MetricQuery(version, namespace, resource, name, metric)


_KEY = r"(?:[a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_EQUALITY = re.compile(rf"\s*(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})\s*")
_SET = re.compile(rf"\s*(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)\s*")
_EXISTENCE = re.compile(rf"\s*(?P<operator>!?)\s*(?P<key>{_KEY})\s*")
_COMMA = re.compile(r",(?![^()]*\))")
"""A comma that is not within the parentheses of a set."""

LONGEST = 4096  # characters of a selector


def selector(text: str) -> Callable[[Labels], bool]:
    """Read a label selector; the empty one selects all.

    Raises:
        ValueError: it is none.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a selector has at most {LONGEST} characters")
    requirements = [_requirement(part) for part in _COMMA.split(text)] if text.strip() else []
    return lambda labels: all(holds(labels) for holds in requirements)


def _requirement(text: str) -> Callable[[Labels], bool]:
    if found := _SET.fullmatch(text):
        values = [value.strip() for value in found["values"].split(",")]
        return _within(found["key"], values, wanted=found["operator"] == "in")
    if found := _EQUALITY.fullmatch(text):
        return _within(found["key"], [found["value"]], wanted=found["operator"] != "!=")
    if found := _EXISTENCE.fullmatch(text):
        return _present(found["key"], wanted=not found["operator"])
    raise ValueError(f"unable to parse requirement: {text!r}")


def _within(key: str, values: Sequence[str], *, wanted: bool) -> Callable[[Labels], bool]:
    """A label that is absent is in no set; `!=` and `notin` select what lacks it."""
    return lambda labels: (labels.get(key) in values) is wanted


def _present(key: str, *, wanted: bool) -> Callable[[Labels], bool]:
    return lambda labels: (key in labels) is wanted
