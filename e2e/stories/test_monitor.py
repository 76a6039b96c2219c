"""A platform team lets its Prometheus find the pods, and sees each deployment by its name."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.harness.cluster import Cluster
from e2e.stories.endpoint import Endpoint
from e2e.stories.installation import NAME, Operator
from e2e.stories.pod_discovery import discovered
from monitoring import generate, prometheus
from monitoring.boards import deployment, fleet
from monitoring.grafana import Chosen, Panel
from monitoring.prometheus import Prometheus

DOCUMENTED = generate.CHART / "monitoring" / "scrape-config.yaml"


@pytest.fixture(scope="module")
def prometheus_of_this_module(
    operator: Operator, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, Path]]:
    """One in the cluster's network with the documented configuration, and the file that tells it of pods."""
    del operator
    if not cluster.backend.reaches_services:
        pytest.skip("pods cannot be reached from here, so a Prometheus of ours cannot scrape them")
    folder = tmp_path_factory.mktemp("prometheus")
    found = folder / "pods.json"
    found.write_text("[]")
    config = yaml.safe_load(DOCUMENTED.read_text())
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job |= {"scrape_interval": "1s", "file_sd_configs": [{"files": [str(found)]}]}
    rules = sorted((generate.CHART / "alerts").glob("*.yaml"))
    with prometheus.running(folder, config, rules) as running:
        yield running, found


@pytest.fixture
def watched(prometheus_of_this_module: tuple[Prometheus, Path], cluster: Cluster, tiny: Endpoint) -> Prometheus:
    """It knows every pod of the cluster, as they are now; which of them it scrapes is its configuration's choice."""
    running, found = prometheus_of_this_module
    pods = json.loads(cluster.kubectl("get", "pods", "--all-namespaces", "--output=json"))["items"]
    assert tiny.pod()["metadata"]["name"] in {pod["metadata"]["name"] for pod in pods}
    found.write_text(json.dumps(discovered(pods)))
    return running


def until(cluster: Cluster, watched: Prometheus, expression: str) -> None:
    cluster.wait(lambda: watched.query(expression), seconds=60, what=expression)


def test_every_series_of_a_pod_says_whose_it_is(watched: Prometheus, tiny: Endpoint) -> None:
    pod = tiny.pod()["metadata"]
    until(tiny.cluster, watched, f'wenxin_slots{{pod="{pod["name"]}"}}')
    (series,) = watched.query(f'wenxin_slots{{pod="{pod["name"]}"}}')
    assert series.labels["job"] == "wenxin-runtime"
    assert (series.labels["namespace"], series.labels["deployment"]) == (tiny.namespace, tiny.name)
    assert series.labels["revision"] == pod["labels"]["serving.wenxin.io/revision"]


def test_each_pod_of_ours_is_scraped_once_and_no_other(watched: Prometheus, operator: Operator, tiny: Endpoint) -> None:
    until(tiny.cluster, watched, f'up{{pod="{tiny.pod()["metadata"]["name"]}"}} == 1')
    names = [target["labels"]["pod"] for target in watched.targets()]
    assert len(names) == len(set(names))
    assert {tiny.pod()["metadata"]["name"], operator.pod_name()} <= set(names)
    assert {target["labels"]["job"] for target in watched.targets()} == {"wenxin-runtime", "wenxin-operator"}


def test_the_operator_tells_of_the_deployment_where_the_deployment_lies(
    watched: Prometheus, operator: Operator, tiny: Endpoint
) -> None:
    ready = f'wenxin_operator_deployment_condition{{deployment="{tiny.name}", condition="Ready"}} == 1'
    until(tiny.cluster, watched, ready)
    (series,) = watched.query(ready)
    assert series.labels["namespace"] == tiny.namespace
    assert series.labels["pod"].startswith(NAME)
    (leads,) = watched.query("wenxin_operator_leader")
    assert leads.labels["namespace"] == operator.namespace


@pytest.mark.parametrize("panel", [*deployment.BOARD.panels(), *fleet.BOARD.panels()], ids=lambda panel: panel.title)
def test_the_dashboards_show_this_deployment(watched: Prometheus, tiny: Endpoint, panel: Panel) -> None:
    place = {"namespace": tiny.namespace, "deployment": tiny.name}
    chosen = Chosen(window="30s", values=place)
    until(tiny.cluster, watched, f'rate(wenxin_requests_total{{deployment="{tiny.name}"}}[30s])')
    for query in panel.queries:
        found = watched.query(chosen.fill(query.expr))
        assert found or panel.quiet or "> 0" in query.expr or "replicas_max" in query.expr, query.expr
        for series in found:
            assert {name: series.labels.get(name, value) for name, value in place.items()} == place


def test_nothing_fires_about_a_deployment_that_is_well(watched: Prometheus, tiny: Endpoint) -> None:
    assert [rule["lastError"] for rule in watched.rules() if rule["health"] == "err"] == []
    firing = watched.query(f'ALERTS{{alertstate="firing", namespace="{tiny.namespace}", deployment="{tiny.name}"}}')
    assert firing == []
