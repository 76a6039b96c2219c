"""Helm at work on a real API server: what it refuses, what the hook may, and what definitions become.

No node runs the hook's Job here; what it runs is run as a process of this machine, with the Job's own rights.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from e2e.harness.control_plane import ControlPlane
from e2e.harness.errors import CommandError
from e2e.stories.operator_api.chart_values import NAMESPACED
from e2e.stories.operator_api.copies import CHART, NAME, NAMESPACE, Object, World, helm, template

VERSION = "serving.wenxin.io/version"
KINDS = ("wenxindeployments.serving.wenxin.io", "wenxinmodels.serving.wenxin.io")
TEAM_A = ("--set=watchNamespaces={team-a}", "--set=metrics.provider=none")
TEAM_B = ("--set=watchNamespaces={team-b}", "--set=metrics.provider=none")


@pytest.fixture(scope="module")
def empty() -> Iterator[World]:
    """A control plane with namespaces, and nothing of ours."""
    with ControlPlane() as plane:
        world = World(plane, plane.directory / "copies")
        world.folder.mkdir()
        for name in (NAMESPACE, "team-a", "team-b"):
            world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield world


@contextmanager
def release(world: World, name: str, *flags: str, namespace: str = NAMESPACE) -> Iterator[None]:
    """A release for the length of the block, without the hook, for which there is no node."""
    where = (name, f"--namespace={namespace}")
    values = ("--set=crds.upgrade=false", *flags)
    helm("install", *where, str(CHART), "--create-namespace", *values, kubeconfig=world.plane.kubeconfig)
    try:
        yield
    finally:
        helm("uninstall", *where, kubeconfig=world.plane.kubeconfig)


def refused(world: World, *flags: str, says: str) -> None:
    flags = ("--set=metrics.provider=none", *flags)  # the embedded one would be refused for its own reason
    with pytest.raises(CommandError, match=says), release(world, "second", *flags, namespace="elsewhere"):
        pass


def test_a_second_release_for_the_whole_cluster_is_refused_by_the_name_of_the_first(empty: World) -> None:
    with release(empty, "first"):
        refused(empty, says=f"release first in namespace {NAMESPACE} serves the whole cluster already")
        # Somebody who may look at ClusterRoles, as the hook's installer may, is told of a narrow one beside it too.
        refused(empty, *TEAM_A, "--set=crds.upgrade=true", says="serves the whole cluster already")


def test_rights_of_that_name_that_no_release_made_are_not_taken_over(empty: World) -> None:
    empty.plane.kubectl("create", "clusterrole", NAME, "--verb=get", "--resource=pods")
    refused(empty, says=r'ClusterRole "wenxin-operator" .* exists and cannot be imported')
    empty.plane.kubectl("delete", "clusterrole", NAME)


def test_one_for_a_namespace_that_is_served_is_refused_and_one_for_another_is_not(empty: World) -> None:
    with release(empty, "first", *TEAM_A):
        refused(empty, *NAMESPACED, says=f"release first in namespace {NAMESPACE} serves namespace team-a already")
        refused(empty, says="serves namespace team-a already: use it, uninstall it, or give each release")
        with release(empty, "second", *TEAM_B, namespace="elsewhere"):
            roles = empty.plane.kubectl("get", "roles", "--all-namespaces", "--output=name")
            assert roles.count("role.rbac.authorization.k8s.io/wenxin-operator\n") == 2


def test_an_upgrade_of_a_release_is_not_a_second_one(empty: World) -> None:
    with release(empty, "first"):
        where = ("first", str(CHART), f"--namespace={NAMESPACE}", "--set=crds.upgrade=false")
        helm("upgrade", *where, "--set=workers=7", kubeconfig=empty.plane.kubeconfig)


@pytest.fixture(scope="module")
def hook(empty: World) -> World:
    """The account of the hook's Job, with the rights that the chart gives it."""
    kept = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")
    shown = yaml.safe_load_all(template("--show-only=templates/crds-hook.yaml"))
    empty.apply(*(each for each in shown if each["kind"] in kept))
    empty.log_in(f"{NAME}-crds", empty.folder / "hook")
    return empty


def apply_definitions(world: World) -> str:
    """What the hook's Job runs; its log."""
    environment = os.environ | {"WENXIN_OPERATOR_KUBECONFIG": str(world.folder / "hook")}
    command = [sys.executable, "-m", "wenxin_operator", "crds", "apply"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def definition(world: World, name: str) -> Object:
    found = world.get("crd", name)
    assert found
    return found


@pytest.mark.parametrize("manager", ["kubectl", "helm"])
def test_a_definition_of_an_older_version_gets_what_it_lacks_and_its_resources_stay(hook: World, manager: str) -> None:
    name = f"of-{manager}"
    hook.plane.kubectl("delete", "crd", "--ignore-not-found", *KINDS)
    old = yaml.safe_load((CHART / "crds" / "wenxinmodels.yaml").read_text())
    old["metadata"].pop("annotations")
    spec = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    (lost,) = [each for each in ("source",) if spec["properties"].pop(each, None)]
    spec.pop("x-kubernetes-validations", None)
    spec.pop("required", None)
    arguments = ("apply",) if manager == "kubectl" else ("apply", "--server-side", "--field-manager=helm")
    hook.plane.kubectl(*arguments, "-f", "-", stdin=yaml.safe_dump(old))
    hook.plane.kubectl("wait", "--for=condition=Established", "crd", KINDS[1], "--timeout=30s")
    model = {"apiVersion": "serving.wenxin.io/v1alpha1", "kind": "WenxinModel", "metadata": {"name": name}, "spec": {}}
    hook.plane.kubectl("apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump(model))
    before = hook.get("wm", name)

    assert "is of version" in apply_definitions(hook)

    now = definition(hook, KINDS[1])
    assert lost in str(now)
    assert hook.get("crd", KINDS[0]), "one that was not there is made"
    after = hook.get("wm", name)
    assert before
    assert after
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    for each in KINDS:
        as_generated(hook, each)


def as_generated(world: World, name: str) -> None:
    wanted = yaml.safe_load((CHART / "crds" / f"{name.partition('.')[0]}.yaml").read_text())
    live = definition(world, name)
    assert live["spec"]["versions"][0]["schema"] == wanted["spec"]["versions"][0]["schema"]
    assert live["metadata"]["annotations"].items() >= wanted["metadata"]["annotations"].items()


def test_a_definition_of_a_newer_version_stays(hook: World) -> None:
    apply_definitions(hook)
    hook.plane.kubectl("annotate", "crd", KINDS[0], f"{VERSION}=99.0.0", "--overwrite")
    before = definition(hook, KINDS[0])
    assert "is of the newer version 99.0.0, and stays as it is" in apply_definitions(hook)
    assert definition(hook, KINDS[0]) == before
    hook.plane.kubectl("annotate", "crd", KINDS[0], f"{VERSION}-")


def test_at_rest_the_hook_changes_nothing(hook: World) -> None:
    apply_definitions(hook)
    before = [definition(hook, name) for name in KINDS]
    apply_definitions(hook)
    assert [definition(hook, name) for name in KINDS] == before
