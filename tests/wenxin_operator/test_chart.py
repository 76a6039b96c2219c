"""The chart and the code say the same: settings, defaults, rights. What takes Helm is in e2e/stories/operator_api."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.wenxin_operator.api_requests import Request
from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.running import CLAIM, deployment, finish_inspection, operating, quiet, until
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.changes import NEVER_PRUNED
from wenxin_operator.errors import SpecError
from wenxin_operator.names import (
    LEADER_WORKER_SET,
    NEVER_READ,
    RESOURCES,
    SCALED_OBJECT,
    SECRET,
    STATEFUL_SET,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
)
from wenxin_operator.observe import CHILD_KINDS
from wenxin_operator.settings import Settings, variable

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "wenxin-operator"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
DEPLOYMENT = (CHART / "templates" / "deployment.yaml").read_text()
ENVIRONMENT = dict(re.findall(r"- name: (WENXIN_OPERATOR_\w+)\n +value: \{\{ (.+) \}\}", DEPLOYMENT))
FROM_THE_POD = {"WENXIN_OPERATOR_IDENTITY", "WENXIN_OPERATOR_LEASE_NAMESPACE"}
NOT_IN_A_CLUSTER = {"WENXIN_OPERATOR_KUBECONFIG", "WENXIN_OPERATOR_HTTP_HOST"}
EVERYTHING = frozenset({"get", "list", "watch", "create", "patch", "delete"})


FETCHED = {
    "apiVersion": RESOURCES[WENXIN_MODEL].api_version,
    "kind": WENXIN_MODEL,
    "metadata": {"namespace": "here", "name": "fetched"},
    "spec": {"preset": "ernie-4.5-0.3b", "checksums": {"config.json": "0" * 64}},
}


def rules() -> list[dict[str, list[str]]]:
    text = (CHART / "templates" / "_rules.tpl").read_text()
    body = re.search(r'define "wenxin-operator.rules" -\}\}\n(.*)\{\{- end', text, re.DOTALL)
    assert body
    found: list[dict[str, list[str]]] = yaml.safe_load(body[1])
    return found


def granted() -> dict[tuple[str, str], frozenset[str]]:
    """Group and resource -> verbs."""
    return {
        (group, resource): frozenset(rule["verbs"])
        for rule in rules()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def used() -> dict[tuple[str, str], frozenset[str]]:
    """What the code does: children are applied, repaired and pruned; everything is watched."""
    children = {kind for kinds in CHILD_KINDS.values() for kind in kinds}
    verbs = {
        (resource.api_version.rpartition("/")[0], resource.plural): EVERYTHING - {"delete" * (kind in NEVER_PRUNED)}
        if kind in children
        else frozenset({"list", "watch"})
        for kind, resource in RESOURCES.items()
    }
    statuses = {
        (group, f"{plural}/status"): frozenset({"patch"}) for group, plural in verbs if group == "serving.wenxin.io"
    }
    verbs["", "pods"] |= {"patch"}  # deletion costs
    made = {("", NEVER_READ[SECRET].plural): frozenset({"create"})}
    return verbs | statuses | made | {("events.k8s.io", "events"): frozenset({"create", "patch"})}


def test_every_setting_is_a_value_of_the_chart_and_nothing_else_is_set() -> None:
    fields = {variable(name) for name in Settings.model_fields}
    assert ENVIRONMENT.keys() | FROM_THE_POD | NOT_IN_A_CLUSTER == fields
    named = set(re.findall(r"- name: (WENXIN_OPERATOR_\w+)", DEPLOYMENT))
    assert named == ENVIRONMENT.keys() | FROM_THE_POD


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_the_charts_default_is_the_codes(name: str) -> None:
    expression = ENVIRONMENT[name]
    if ".Values." not in expression:
        assert expression == 'include "wenxin-operator.name" . | quote'
        return
    path = re.match(r"\.Values\.(\S+)", expression)
    assert path
    value: Any = VALUES
    for part in path[1].split("."):
        value = value[part]
    text = ",".join(value) if isinstance(value, list) else str(value)
    field = name.removeprefix("WENXIN_OPERATOR_").lower()
    assert getattr(Settings.from_environment({name: text}), field) == getattr(Settings(), field)


def test_the_rights_are_what_the_code_uses_no_less_and_no_more() -> None:
    assert granted() == used()


def test_no_secret_can_be_read() -> None:
    assert not any("*" in rule["resources"] + rule["verbs"] for rule in rules())
    assert [rule["verbs"] for rule in rules() if "secrets" in rule["resources"]] == [["create"]]


def allowed(request: Request) -> bool:
    if request.group == "coordination.k8s.io":
        return request.verb in ("get", "create", "update") and request.namespace == "system"
    verbs = granted().get((request.group, request.resource), frozenset())
    return (
        {request.verb, "create"} <= verbs
        if request.verb == "patch" and "/" not in request.resource
        else request.verb in verbs
    )


@pytest.mark.parametrize("lacks", [set(), {"leaderworkersets"}])
async def test_with_just_these_rights_a_deployment_gets_all_that_it_needs(
    api: FakeApi, kubeconfig: Path, lacks: set[str]
) -> None:
    refused: list[Request] = []

    def judge(request: Request) -> bool:
        if not allowed(request):
            refused.append(request)
        return allowed(request)

    api.allows, api.lacks = judge, lacks
    groups = LEADER_WORKER_SET if not lacks else STATEFUL_SET
    await api.put(CLAIM)
    cache = {"redis": {"managed": {}}}
    await api.put(deployment(replicas=2, autoscaling={"maxReplicas": 3}, answerCache=cache))
    await api.put(deployment("wide", model={"ref": "ernie"}, parallelism={"tensor": 2, "nodes": 2}))
    async with operating(kubeconfig):
        await until(lambda: api.of("jobs"))
        await finish_inspection(api)
        await until(lambda: api.of("deployments") and api.of(RESOURCES[groups].plural))
        await api.put(FETCHED)
        await until(lambda: len(api.of("jobs")) > 1)
        await quiet(api)
        await api.remove(WENXIN_DEPLOYMENT, "here", "ernie")
        await quiet(api)
    assert refused == []
    assert api.of(NEVER_READ[SECRET].plural)
    other = {LEADER_WORKER_SET, STATEFUL_SET, SCALED_OBJECT} - {groups}
    for kind in {*CHILD_KINDS[WENXIN_DEPLOYMENT], *CHILD_KINDS[WENXIN_MODEL]} - other:
        assert api.of(RESOURCES[kind].plural), kind


def test_the_charts_definitions_are_the_generated_ones() -> None:
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        assert (CHART / "crds" / path.name).read_text() == path.read_text()


def test_the_charts_version_is_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project
    assert chart["version"] == chart["appVersion"] == project[1]


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}:{document['kind']}/{document['metadata']['name']}", document


@pytest.mark.parametrize(
    ("where", "document"), list(documents()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_example_is_what_the_operator_accepts_and_within_the_restricted_standard(
    where: str, document: dict[str, Any]
) -> None:
    specs = {WENXIN_DEPLOYMENT: DeploymentSpec, WENXIN_MODEL: ModelSpec}
    if kind := specs.get(document["kind"]):
        parsed = parse(kind, document["spec"])
        assert not isinstance(parsed, SpecError), f"{where}: {parsed}"
    pods = {"Job": lambda: document["spec"]["template"]["spec"], "Pod": lambda: document["spec"]}
    if document["kind"] in pods:
        pod = pods[document["kind"]]()
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_every_example_is_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    assert all(f"({path.name})" in listed for path in (ROOT / "examples").glob("*.yaml"))
