"""The chart as Helm renders it, and as a real API server takes it.

After a change that is meant, `WRITE_GOLDEN=1` writes golden/chart.yaml anew; the diff is what a reviewer reads.
"""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.harness import tools
from e2e.harness.errors import CommandError
from e2e.stories.operator_api import json_schemas
from e2e.stories.operator_api.chart_values import CHOICES
from e2e.stories.operator_api.copies import CHART, NAMESPACE, Object, World, helm, template

GOLDEN = Path(__file__).parent / "golden" / "chart.yaml"
TEAMS = ("team-a", "team-b")
LONGEST = "x" * 53
"""The longest name that Helm takes for a release."""


def rendered(choice: str, release: str = "wenxin-operator") -> str:
    return template(*CHOICES[choice].flags, release=release)


def objects(manifests: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(manifests) if each]


def hooks(each: Object) -> str:
    return str(each["metadata"].get("annotations", {}).get("helm.sh/hook", ""))


@pytest.fixture(scope="module")
def teams(world: World) -> World:
    """Namespaces to be served, each alone."""
    for namespace in TEAMS:
        world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    return world


@pytest.fixture(scope="module")
def schemas(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the API server says of every kind that any choice renders."""
    folder = tmp_path_factory.mktemp("schemas")
    kinds = {(each["apiVersion"], each["kind"]) for choice in CHOICES for each in objects(rendered(choice))}
    json_schemas.write(world.plane, folder, kinds)
    return folder


def test_what_the_default_values_render_is_exactly_this() -> None:
    found = template()
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text(), "WRITE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("choice", CHOICES)
def test_lint_has_nothing_to_say(choice: str) -> None:
    said = helm("lint", "--strict", str(CHART), *CHOICES[choice].flags)
    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


@pytest.mark.parametrize("choice", CHOICES)
def test_kubeconform_finds_no_field_that_there_is_not(schemas: Path, choice: str) -> None:
    conform(rendered(choice), schemas)


def test_kubeconform_would_find_one(schemas: Path) -> None:
    with pytest.raises(CommandError, match="additional properties 'replica' not allowed"):
        conform(rendered("defaults").replace("  replicas: 1\n", "  replica: 1\n"), schemas)


def conform(manifests: str, schemas: Path) -> None:
    command = [
        str(tools.binary(tools.KUBECONFORM)),
        f"-schema-location={schemas / json_schemas.LOCATION}",
        "-summary",
        "-",
    ]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode or "Skipped: 0" not in done.stdout:
        raise CommandError(done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("choice", "release"),
    [
        *((choice, "wenxin-operator") for choice in CHOICES),
        ("copies", LONGEST),
        ("copies, placed, namespaced", LONGEST),
    ],
)
def test_a_real_api_server_takes_what_is_rendered(teams: World, choice: str, release: str) -> None:
    teams.plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered(choice, release))


@pytest.mark.parametrize("choice", ["defaults", "mirror"])
def test_every_pod_is_within_the_restricted_standard(world: World, choice: str) -> None:
    strict = {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": strict})
    world.plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", "strict", "--timeout=30s")
    found = pods(rendered(choice))
    assert found.keys() == {"Deployment", "Job", "Pod"}
    for kind, spec in found.items():
        spec |= {"serviceAccountName": "default", "automountServiceAccountToken": False}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": kind.lower(), "namespace": "strict"},
            "spec": spec,
        }
        world.plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))


def pods(manifests: str) -> dict[str, Object]:
    """The pods that each kind of object makes."""
    specs = {each["kind"]: each["spec"] for each in objects(manifests) if each["kind"] in ("Deployment", "Job", "Pod")}
    return {kind: spec["template"]["spec"] if "template" in spec else spec for kind, spec in specs.items()}


def test_in_named_namespaces_nothing_cluster_wide_stays() -> None:
    wide = [each for each in objects(rendered("namespaced")) if each["kind"].startswith("ClusterRole")]
    for each in wide:
        assert hooks(each) == "pre-install,pre-upgrade"
        assert "hook-succeeded,hook-failed" in each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    kinds = [each["kind"] for each in objects(template(*CHOICES["namespaced"].flags, "--set=crds.upgrade=false"))]
    assert not any(kind.startswith("ClusterRole") for kind in kinds)
    assert kinds.count("Role") == 1 + len(TEAMS)


def test_what_a_hook_starts_is_not_taken_for_the_operator() -> None:
    everything = objects(rendered("copies"))
    selectors = [each["spec"]["selector"] for each in everything if each["kind"] == "Service" and not hooks(each)]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in everything
                  if each["kind"] in ("Deployment", "PodDisruptionBudget")]  # fmt: skip
    started = [each["metadata"]["labels"] for each in everything if hooks(each) and each["kind"] in ("Job", "Pod")]
    assert len(selectors) >= 3
    assert len(started) == 2
    assert not any(selector.items() <= labels.items() for selector in selectors for labels in started)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("replica=2", "replica"),
        ("workers=0", "workers"),
        ("lease.duration=15", "lease/duration"),
        ("log.level=loud", "log/level"),
        ("lease.duration=10s", r"duration \(10s\) must exceed renewDeadline \(10s\)"),
        ("lease.retryPeriod=1m", r"and that retryPeriod \(1m\)"),
        ("watchAge=3m59s900ms", r"watchAge \(3m59s900ms\) must be at least twice resyncInterval \(2m\)"),
        ("metrics.httpsPort=8080", "metrics.httpsPort and httpPort are both 8080"),
        (r"podLabels.app\.kubernetes\.io/name=mine", "podLabels: app.kubernetes.io/name is the chart's own"),
        ("serviceAccount.create=false", "name yours in serviceAccount.name"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(wrong: str, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        template(f"--set={wrong}")


@pytest.mark.parametrize("fine", ["watchAge=0.5h", "lease.duration=10001ms", "watchAge=3m60s", "resyncInterval=1m1s"])
def test_durations_are_read_as_the_operator_reads_them(fine: str) -> None:
    assert template(f"--set={fine}")


@pytest.mark.parametrize("mode", ["defaults", "namespaced"])
def test_the_notes_name_commands_for_the_namespaces_that_are_served(mode: str) -> None:
    notes = helm("install", "mine", str(CHART), "--dry-run=client", f"--namespace={NAMESPACE}", *CHOICES[mode].flags)
    notes = notes.split("NOTES:")[1]
    assert f"helm test mine --namespace {NAMESPACE}" in notes
    assert ("kubectl apply --namespace team-a -f examples/tiny.yaml" in notes) == (mode == "namespaced")
    assert ("kubectl delete wenxindeployments,wenxinmodels --all --all-namespaces" in notes) == (mode == "defaults")
    assert "What stays: the CustomResourceDefinitions, every WenxinDeployment and WenxinModel, and their pods" in notes
