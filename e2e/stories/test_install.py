"""A platform team installs the operator with Helm."""

import pytest

from e2e.harness import paths
from e2e.harness.cluster import Cluster
from e2e.stories.endpoint import condition
from e2e.stories.installation import NAME, Operator

CHART = paths.REPOSITORY / "charts" / "wenxin-operator"
KINDS = ("wenxindeployments", "wenxinmodels")


def test_helm_lint_has_nothing_to_say(cluster: Cluster) -> None:
    said = cluster.helm("lint", "--strict", str(CHART))
    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


def test_helm_install_ends_with_an_operator_that_is_ready_in_a_namespace_that_enforces_restricted(
    operator: Operator,
) -> None:
    enforced = operator.cluster.get(f"namespace/{operator.namespace}")["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"
    status = operator.deployment()["status"]
    assert condition({"status": status}, "Available")["status"] == "True"
    assert operator.pod()["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_api_server_finds_the_schema_structural(operator: Operator, kind: str) -> None:
    crd = operator.cluster.get(f"customresourcedefinition/{kind}.serving.wenxin.io")
    conditions = {each["type"]: each["status"] for each in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


@pytest.mark.parametrize("path", ["wenxindeployment.spec.engine", "wenxinmodel.spec.source"])
def test_kubectl_explain_tells_what_a_field_means(operator: Operator, path: str) -> None:
    assert "<no description>" not in operator.cluster.kubectl("explain", path)


def test_the_operators_metrics_say_that_it_leads_and_has_listed_everything(operator: Operator) -> None:
    metrics = operator.metrics(operator.pod_name())
    assert metrics["wenxin_operator_leader"] == 1
    assert metrics["wenxin_operator_watch_age_seconds"] < 600


def test_helm_test_asks_each_copy_and_leaves_nothing_behind(operator: Operator) -> None:
    said = operator.cluster.helm("test", NAME, "--logs", namespace=operator.namespace)
    assert "Succeeded" in said
    assert "is ready and leads" in said
    left = operator.cluster.list("services,pods,networkpolicies", namespace=operator.namespace)
    assert [each["metadata"]["name"] for each in left if each["metadata"]["name"].endswith("-check")] == []
