"""Paths and selectors of custom.metrics.k8s.io."""

import pytest

from wenxin_operator.metrics_api.queries import MetricQuery, parse, selector

ROOT = "/apis/custom.metrics.k8s.io"
LABELS = {"app": "ernie", "serving.wenxin.io/deployment": "a", "empty": ""}


def test_a_path_names_a_metric_of_a_pod_or_of_all() -> None:
    asked = parse(f"{ROOT}/v1beta2/namespaces/team/pods/*/wenxin_queue_depth")
    assert asked == MetricQuery("v1beta2", "team", "pods", "*", "wenxin_queue_depth")


@pytest.mark.parametrize(
    "path",
    ["/", "/apis", ROOT, f"{ROOT}/v1beta2", f"{ROOT}/v1/namespaces/team/pods/*/x", f"{ROOT}/v1beta1/nodes/a/x",
     f"{ROOT}/v1beta1/namespaces/team/metrics/x", f"{ROOT}/v1beta1/namespaces/team/pods/a/x/y"],
)  # fmt: skip
def test_other_paths_are_no_metric(path: str) -> None:
    assert parse(path) is None


@pytest.mark.parametrize(
    ("text", "selects"),
    [
        ("", True),
        ("app=ernie", True),
        ("app==ernie", True),
        ("app = ernie , serving.wenxin.io/deployment=a", True),
        ("app=other", False),
        ("app!=other", True),
        ("missing!=other", True),
        ("app in (ernie, other)", True),
        ("app in (other,another),app", False),
        ("app notin (other)", True),
        ("missing notin (x)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! app", False),
        ("empty=", True),
        ("missing=", False),
    ],
)
def test_a_selector_selects_as_kubernetes_does(text: str, *, selects: bool) -> None:
    assert selector(text)(LABELS) is selects


@pytest.mark.parametrize("text", ["=", "app=a=b", "app in", "app in (a", ",", "app,,b", "-a", "a>b", "x" * 5000])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"selector|requirement"):
        selector(text)
