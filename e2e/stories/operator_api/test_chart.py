"""The chart as Helm renders it, and as a real API server takes it."""

import subprocess

import pytest
import yaml

from e2e.harness import tools
from e2e.harness.errors import CommandError
from e2e.stories.operator_api.copies import CHART, World, template

CHOICES = {
    "defaults": (),
    "namespaces": ("--set=watchNamespaces={team-a,team-b},metrics.provider=none",),
    "prometheus-adapter": ("--set=metrics.provider=prometheus-adapter",),
    "keda": ("--set=metrics.provider=keda,metrics.prometheusAddress=http://prometheus.monitoring.svc:9090",),
    "nothing optional": (
        "--set=rbac.create=false,serviceAccount.create=false,networkPolicy.enabled=false,metrics.service=false",
    ),
    "everything": (
        "--set=imagePullSecrets={one,two},replicas=2,image.tag=,podLabels.a=b,podAnnotations.c=d,nodeSelector.e=f",
        "--set=tolerations[0].operator=Exists,priorityClassName=system-cluster-critical,serviceAccount.annotations.g=h",
        "--set=topologySpreadConstraints[0].maxSkew=1,topologySpreadConstraints[0].topologyKey=zone",
        "--set=topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway,log.level=debug,httpPort=9090",
        '--set-json=affinity={"nodeAffinity":{}}',
    ),
}


def test_lint_has_nothing_to_say() -> None:
    command = [str(tools.find(tools.HELM)), "lint", "--strict", str(CHART)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "[WARNING]" not in said


@pytest.mark.parametrize("choice", CHOICES)
def test_a_real_api_server_takes_what_is_rendered(world: World, choice: str) -> None:
    for namespace in ("team-a", "team-b"):
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        world.apply(manifest)
    rendered = template(*CHOICES[choice])
    world.plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered)


def test_every_pod_is_within_the_restricted_standard(world: World) -> None:
    pods = yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    world.plane.kubectl("apply", "-f", "-", stdin=pods)
    (deployment,) = [each for each in yaml.safe_load_all(template()) if each and each["kind"] == "Deployment"]
    spec = {
        **deployment["spec"]["template"]["spec"],
        "serviceAccountName": "default",
        "automountServiceAccountToken": False,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator", "namespace": "strict"}, "spec": spec}
    world.plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", "strict", "--timeout=30s")
    world.apply(pod)


def test_in_named_namespaces_nothing_is_granted_cluster_wide() -> None:
    kinds = [each["kind"] for each in yaml.safe_load_all(template(*CHOICES["namespaces"])) if each]
    assert not any(kind.startswith("ClusterRole") for kind in kinds)
    assert kinds.count("Role") == 3


def test_an_api_for_the_whole_cluster_is_not_served_from_a_few_namespaces() -> None:
    with pytest.raises(CommandError, match=r"set metrics\.provider to prometheus-adapter, keda .* or none"):
        template("--set=watchNamespaces={team-a}")


def test_keda_is_told_where_prometheus_is() -> None:
    with pytest.raises(CommandError, match=r"set metrics\.prometheusAddress"):
        template("--set=metrics.provider=keda")


@pytest.mark.parametrize("wrong", ["replica=2", "workers=0", "lease.duration=15", "log.level=loud"])
def test_a_wrong_value_is_refused_with_its_name(wrong: str) -> None:
    with pytest.raises(CommandError, match=wrong.partition("=")[0].partition(".")[0]):
        template(f"--set={wrong}")
