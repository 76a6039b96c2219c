"""Our histograms say what prometheus_client's would, and cost less."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference
from prometheus_client.parser import text_string_to_metric_families

from wenxin_runtime.distribution import Histogram

BOUNDS = (0.5, 1, 2.5, 131072)


def samples(registry: CollectorRegistry) -> dict[tuple, float]:
    text = generate_latest(registry).decode()
    return {
        (sample.name, *(sample.labels | _bound(sample.labels)).items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def _bound(labels: dict[str, str]) -> dict[str, float]:
    return {"le": float(labels["le"])} if "le" in labels else {}


VALUES = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0, 2.5, 7.0, 1e6])))


@given(VALUES)
def test_the_text_is_what_the_reference_implementation_says(values: list[tuple[str, float]]) -> None:
    ours, reference = CollectorRegistry(), CollectorRegistry()
    mine = Histogram("x_seconds", "X", BOUNDS, registry=ours, label="phase", values=("a", "b"))
    theirs = Reference("x_seconds", "X", ["phase"], buckets=BOUNDS, registry=reference)
    for phase in ("a", "b"):
        theirs.labels(phase)
    for phase, value in values:
        mine[phase].observe(value)
        theirs.labels(phase).observe(value)
    assert samples(ours) == samples(reference)


@given(st.floats(0, 1e7), st.integers(1, 300))
def test_a_value_with_a_weight_is_that_value_so_many_times(value: float, times: int) -> None:
    registry = CollectorRegistry()
    Histogram("x_tokens", "X", BOUNDS, registry=registry).observe(value, times)
    found = samples(registry)
    assert found[("x_tokens_count",)] == times
    assert found[("x_tokens_sum",)] == value * times
    index = bisect_left(BOUNDS, value)
    assert [found[("x_tokens_bucket", ("le", float(bound)))] for bound in BOUNDS] == [
        times if i >= index else 0 for i in range(len(BOUNDS))
    ]
