"""What the chart makes for Prometheus and Grafana, as Helm renders it and a real API server takes it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.harness.errors import CommandError
from e2e.stories import prometheus_operator
from e2e.stories.operator_api.copies import World, template
from monitoring import targets
from monitoring.alerts import alerts, groups
from monitoring.boards import BOARDS

ALL = (
    "--set=monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true",
    "--set=monitoring.prometheusRule.enabled=true,monitoring.dashboards.enabled=true",
)


def rendered(*flags: str) -> Iterator[dict[str, Any]]:
    return (each for each in yaml.safe_load_all(template(*flags)) if each)


def of_kind(kind: str, *flags: str) -> list[dict[str, Any]]:
    return [each for each in rendered(*flags) if each["kind"] == kind]


def dashboards(*flags: str) -> list[dict[str, Any]]:
    return [each for each in of_kind("ConfigMap", *flags) if "-dashboard-" in each["metadata"]["name"]]


def rules(*flags: str) -> list[dict[str, Any]]:
    found = of_kind("PrometheusRule", *flags)
    return [rule for each in found for group in each["spec"]["groups"] for rule in group["rules"]]


def test_nothing_of_it_is_made_unless_it_is_asked_for() -> None:
    assert not any(each["apiVersion"].startswith(prometheus_operator.GROUP) for each in rendered())
    assert dashboards() == []


def test_a_real_api_server_takes_all_of_it(world: World) -> None:
    world.apply(*prometheus_operator.definitions())
    names = [f"crd/{each['metadata']['name']}" for each in prometheus_operator.definitions()]
    world.plane.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    made = [each for each in rendered(*ALL) if each["apiVersion"].startswith(prometheus_operator.GROUP)]
    assert [each["kind"] for each in made].count("PrometheusRule") == 3
    manifests = yaml.safe_dump_all([*made, *dashboards(*ALL)])
    world.plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=manifests)


def test_the_monitors_find_and_label_pods_as_the_scrape_configuration_does() -> None:
    (pods,), (operator,) = of_kind("PodMonitor", *ALL), of_kind("ServiceMonitor", *ALL)
    assert pods["spec"]["selector"]["matchLabels"] == dict(targets.RUNTIME.selector)
    (endpoint,) = pods["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"] == [each.monitor() for each in targets.RUNTIME.relabellings]
    (endpoint,) = operator["spec"]["endpoints"]
    assert endpoint["relabelings"] == [each.monitor() for each in targets.OPERATOR.relabellings]
    assert endpoint["honorLabels"] is targets.OPERATOR.honor
    (service,) = [each for each in of_kind("Service", *ALL) if each["metadata"]["name"].endswith("-metrics")]
    assert operator["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def test_pods_are_looked_for_where_they_are_served() -> None:
    (everywhere,) = of_kind("PodMonitor", *ALL)
    assert everywhere["spec"]["namespaceSelector"] == {"any": True}
    (named,) = of_kind("PodMonitor", *ALL, "--set=watchNamespaces={team-a,team-b},metrics.provider=none")
    assert named["spec"]["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


def test_the_rules_are_the_generated_ones_word_for_word() -> None:
    assert rules(*ALL) == [
        rule.body() for name in ("deployments", "operator", "service") for group in _file(name) for rule in group.rules
    ]


def _file(name: str) -> tuple[Any, ...]:
    wanted = {"deployments": "wenxin-deployments", "operator": "wenxin-operator"}
    return tuple(group for group in groups() if (group.name == wanted.get(name)) or _is_service(name, group.name))


def _is_service(name: str, group: str) -> bool:
    return name == "service" and group in ("wenxin-goals", "wenxin-service")


def test_alerts_can_be_left_out_and_lead_to_where_their_runbooks_are_published() -> None:
    url = "https://example.org/runbooks"
    left = ("--set=monitoring.prometheusRule.disabled={WenxinPodSilent}", f"--set=monitoring.runbookUrl={url}")
    made = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules(*ALL, *left) if "alert" in rule}
    assert made == {alert.name: f"{url}#{alert.name.lower()}" for alert in alerts() if alert.name != "WenxinPodSilent"}


def test_the_sidecar_finds_each_dashboard_whole() -> None:
    made = dashboards(*ALL)
    bodies = [json.loads(text) for each in made for text in each["data"].values()]
    assert sorted(body["uid"] for body in bodies) == sorted(board.uid for board in BOARDS)
    assert {body["uid"]: body for body in bodies} == {board.uid: board.body() for board in BOARDS}
    for each in made:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert each["metadata"]["annotations"] == {"grafana_folder": "Wenxin"}
    more = (
        "--set=monitoring.dashboards.label=mine,monitoring.dashboards.folder=,monitoring.dashboards.namespace=grafana"
    )
    for each in dashboards(*ALL, more):
        assert each["metadata"]["namespace"] == "grafana"
        assert each["metadata"]["labels"]["mine"] == "1"
        assert "annotations" not in each["metadata"]


def test_a_monitor_without_the_service_that_it_finds_is_refused() -> None:
    with pytest.raises(CommandError, match=r"set metrics\.service to true"):
        template(*ALL, "--set=metrics.service=false")


@pytest.mark.parametrize(
    "wrong", ["interval=often", "runbookUrl=docs", "prometheusRule.disabled={Nothing}", "podMonitor.enable=true"]
)
def test_a_wrong_value_is_refused(wrong: str) -> None:
    with pytest.raises(CommandError, match="monitoring"):
        template(f"--set=monitoring.{wrong}")
