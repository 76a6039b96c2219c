"""The labels of a series are the same however it is scraped."""

from pathlib import Path

import pytest

from monitoring import prometheus, targets
from wenxin_operator.names import WENXIN_DEPLOYMENT, Key, child_labels, pod_selector

PODS = {"namespace": "here", "pod": "a", "deployment": "ernie", "revision": "1"}


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.job)
def test_every_way_of_scraping_gives_the_same_labels(target: targets.Target) -> None:
    plain = {each["target_label"] for each in target.in_kubernetes()["relabel_configs"] if "target_label" in each}
    monitor = {each["targetLabel"] for each in (rule.monitor() for rule in target.relabellings)}
    fixed = target.at("127.0.0.1:1", **dict.fromkeys(plain - {"job"}, "x"))
    assert plain == monitor == {*fixed["labels"]} == target.label_names - {"instance"}


def test_other_labels_than_a_pod_would_get_are_refused() -> None:
    with pytest.raises(ValueError, match="revision"):
        targets.RUNTIME.at("127.0.0.1:1", namespace="here")
    assert targets.RUNTIME.at("127.0.0.1:1", **PODS)["labels"] == {"job": "wenxin-runtime", **PODS}


def test_the_pods_that_are_scraped_are_those_that_serve() -> None:
    labels = child_labels(Key(WENXIN_DEPLOYMENT, "here", "ernie"), "runtime")
    assert targets.RUNTIME.selector.items() <= labels.items()
    assert pod_selector("ernie").items() <= labels.items()


def test_what_the_operator_says_of_others_keeps_its_labels() -> None:
    runtime, operator = targets.scrape_config()["scrape_configs"]
    assert operator["honor_labels"]
    assert "honor_labels" not in runtime


def test_a_prometheus_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"(?s)did not become ready.*nonsense"),
        prometheus.running(tmp_path, {"nonsense": 1}),
    ):
        pass


def test_where_there_is_none_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="install prometheus"), prometheus.running(tmp_path, {}):
        pass
