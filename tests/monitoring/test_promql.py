"""The reader finds what a query names, whatever stands around it."""

import pytest

from monitoring.promql import Selector, read


@pytest.mark.parametrize(
    ("expression", "selectors", "grouped"),
    [
        ("up", [Selector("up")], set()),
        ('up{job="a", pod=~"b|c{2}"}', [Selector("up", ("job", "pod"))], set()),
        ("sum by (a, b) (rate(x_total[5m]))", [Selector("x_total")], {"a", "b"}),
        ("sum(rate(x_total[5m])) by (a)", [Selector("x_total")], {"a"}),
        ("sum without (a) (x)", [Selector("x")], {"a"}),
        (
            "histogram_quantile(0.99, sum by (le) (rate(h_bucket[$__rate_interval])))",
            [Selector("h_bucket")],
            {"le"},
        ),
        ("a / on (x) group_left (y) b", [Selector("a"), Selector("b")], {"x", "y"}),
        ("a > bool 2 and b or c unless d", [Selector("a"), Selector("b"), Selector("c"), Selector("d")], set()),
        ("level:x:rate5m{a='b'} offset 1h", [Selector("level:x:rate5m", ("a",))], set()),
        ('{__name__="x"}', [Selector("", ("__name__",))], set()),
        ("time() - max_over_time(x[1h:1m])", [Selector("x")], set()),
        ('x{path="a\\"}b"} * 1e3 + 0x1F', [Selector("x", ("path",))], set()),
        ("vector(0)", [], set()),
        ("x{}", [Selector("x")], set()),
    ],
)
def test_metrics_matchers_and_groupings_are_told_apart(
    expression: str, selectors: list[Selector], grouped: set[str]
) -> None:
    reading = read(expression)
    assert list(reading.selectors) == selectors
    assert reading.grouped == grouped


@pytest.mark.parametrize("expression", ["x{a='b'", "sum by (a x"])
def test_what_is_not_closed_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="is missing"):
        read(expression)
