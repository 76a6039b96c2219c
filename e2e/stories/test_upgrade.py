"""A platform team upgrades the operator, and takes it away and brings it back, while a team's users ask on."""

from collections.abc import Iterator

import pytest
import yaml

from e2e.harness import demo
from e2e.harness.cluster import Cluster, Object
from e2e.stories.endpoint import Endpoint
from e2e.stories.installation import NAME, Operator
from e2e.stories.traffic import traffic

VALUES = ("resyncInterval=5s",)
"""What the session's installation has."""
DEFINITION = "wenxindeployments.serving.wenxin.io"
VERSION = "serving.wenxin.io/version"
LATER = "monitoring"
"""A field that the older definition is without."""


@pytest.fixture
def installed_again(operator: Operator) -> Iterator[Operator]:
    """The installation, as the session's is when the story is over, however it ends."""
    yield operator
    demo.install(operator.cluster, *VALUES)


def test_an_upgrade_brings_the_definitions_and_a_new_operator_and_no_request_notices(
    installed_again: Operator, tiny: Endpoint
) -> None:
    cluster = tiny.cluster
    older_definition(cluster)
    before, old = marks(tiny), installed_again.pod_name()
    with traffic(tiny) as seen:
        demo.install(cluster, *VALUES, "workers=3")
        cluster.wait(lambda: old not in names(installed_again), seconds=60, what="the old copy to go")
        tiny.ready()
    assert seen.failures == []
    assert seen.answered > 0
    assert marks(tiny) == before, "the runtime's image is the same: no pod was replaced or restarted"
    now = cluster.get(f"customresourcedefinition/{DEFINITION}")
    assert LATER in spec_of(now)
    assert now["metadata"]["annotations"][VERSION] != "0.0.9"
    left = cluster.list("jobs,serviceaccounts,networkpolicies", namespace=installed_again.namespace)
    left += cluster.list("clusterroles,clusterrolebindings", selector="app.kubernetes.io/component=crds")
    assert [each["metadata"]["name"] for each in left if "-crds" in each["metadata"]["name"]] == []


def test_after_an_uninstall_everything_serves_on_and_a_new_installation_takes_it_over(
    installed_again: Operator, tiny: Endpoint
) -> None:
    cluster = tiny.cluster
    before = marks(tiny)
    with traffic(tiny) as seen:
        cluster.helm("uninstall", NAME, "--wait", namespace=installed_again.namespace)
        assert installed_again.pods() == []
        assert cluster.find(f"customresourcedefinition/{DEFINITION}"), "deleting it would delete every deployment"
        assert tiny.get()["metadata"]["uid"] == before["resource"]
        tiny.ask()
        cluster.delete(f"networkpolicy/{tiny.name}", namespace=tiny.namespace)

        demo.install(cluster, *VALUES)
        cluster.wait(
            lambda: "NetworkPolicy/tiny" in tiny.children(), seconds=60, what="what was deleted meanwhile to come back"
        )
        tiny.ready()
    assert seen.failures == []
    assert marks(tiny) == before


def marks(endpoint: Endpoint) -> Object:
    """What tells pods apart, and whether they were restarted."""
    pods = {
        pod["metadata"]["uid"]: [each["restartCount"] for each in pod["status"]["containerStatuses"]]
        for pod in endpoint.pods()
    }
    return {"resource": endpoint.get()["metadata"]["uid"], "pods": pods}


def names(operator: Operator) -> set[str]:
    return {pod["metadata"]["name"] for pod in operator.pods()}


def older_definition(cluster: Cluster) -> None:
    """Put the definition in place that an older version had."""
    definition = yaml.safe_load((demo.CHART / "crds" / "wenxindeployments.yaml").read_text())
    definition["metadata"]["annotations"][VERSION] = "0.0.9"
    del spec_of(definition)[LATER]
    cluster.apply(definition)
    live = cluster.get(f"customresourcedefinition/{DEFINITION}")
    assert LATER not in spec_of(live)


def spec_of(definition: Object) -> Object:
    fields: Object = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return fields
