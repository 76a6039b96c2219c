"""`kubectl wenxin plan` says what the operator would do, and does nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.wenxin_operator.cli.commands import run
from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.running import CLAIM, deployment, finish_inspection, operating, quiet, until
from wenxin_operator.changes import Changes
from wenxin_operator.cli.plan_text import Planned
from wenxin_operator.names import CONFIG_MAP, DEPLOYMENT, LABEL_REVISION, LEADER_WORKER_SET, Raw

EXAMPLES = Path(__file__).parents[3] / "examples"


def written(folder: Path, *documents: dict[str, Any]) -> str:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


async def test_without_a_cluster_a_file_is_judged_and_its_objects_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("plan", "--offline", "-f", written(tmp_path, deployment())) == 0
    shown = capsys.readouterr().out
    assert "WenxinDeployment here/ernie\n  Accepted    True     Valid" in shown
    assert "create      Service/ernie" in shown
    assert "Deployment/ernie" not in shown  # its weights are not verified


async def test_with_assumed_weights_the_pods_and_their_flags_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, deployment(parallelism={"tensor": 2}, accelerator={"resource": "nvidia.com/gpu"}))
    assert await run("plan", "--offline", "--assume", "ernie-4.5-21b-a3b", "-f", path) == 0
    shown = capsys.readouterr().out
    assert "pods        Deployment/ernie: 1, each with cpu 2, memory 8Gi, nvidia.com/gpu 2" in shown
    assert "--tensor-parallel-size=2" in shown


async def test_a_spec_that_would_be_refused_says_why_and_makes_the_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, uneven = deployment("bad", servedNames=["x"]), deployment("uneven", parallelism={"tensor": 8})
    assert await run("plan", "--offline", "--assume", "ernie-4.5-21b-a3b", "-f", written(tmp_path, bad, uneven)) == 1
    shown = capsys.readouterr().out
    assert "Accepted    False    InvalidSpec: spec.servedNames" in shown
    assert "Accepted    False    TensorSizeUneven" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is no YAML"),
        ("- 1", "not an object of Kubernetes"),
        ("kind: WenxinModel", "has no metadata.name"),
        ("kind: WenxinModel\nmetadata: {name: a}", "is of apiVersion serving.wenxin.io/v1alpha1"),
        ("kind: Pod\nmetadata: {name: a}", "no WenxinDeployment and no WenxinModel"),
    ],
)
async def test_a_file_that_can_not_be_planned_is_an_error_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert await run("plan", "--offline", "-f", str(path)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert str(path) in told


async def test_a_missing_file_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("plan", "--offline", "-f", "/nowhere.yaml") == 2
    assert "/nowhere.yaml: No such file" in capsys.readouterr().err


async def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with (EXAMPLES / "tiny.yaml").open() as example:
        monkeypatch.setattr("sys.stdin", example)
        assert await run("plan", "--offline", "-f", "-") == 0


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
async def test_every_example_would_be_accepted(example: Path) -> None:
    assert await run("plan", "--offline", "-f", str(example)) == 0


@pytest.fixture
async def serving(api: FakeApi, kubeconfig: Path) -> FakeApi:
    """A cluster whose operator has done all that it would for one deployment, and is gone."""
    await api.put(CLAIM)
    await api.put(deployment())
    async with operating(kubeconfig):
        await until(lambda: api.of("jobs"))
        await finish_inspection(api)
        await until(lambda: api.of("deployments"))
        await quiet(api)
    api.requests.clear()
    return api


async def test_a_file_that_changes_nothing_leaves_everything_unchanged(
    serving: FakeApi, kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("plan", "-f", written(tmp_path, deployment()), kubeconfig=kubeconfig) == 0
    told = capsys.readouterr()
    assert "create" not in told.out
    assert "unchanged   WenxinModel/ernie, ServiceAccount/ernie" in told.out
    assert serving.writes() == []


async def test_a_change_of_the_pods_is_called_that_and_nothing_is_written(
    serving: FakeApi, kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, deployment(maxModelLen=512))
    assert await run("plan", "-f", path, kubeconfig=kubeconfig) == 0
    shown = capsys.readouterr().out
    assert "update      Deployment/ernie: differs at" in shown
    assert "pods        those that run would be replaced" in shown
    assert serving.writes() == []


@pytest.mark.usefixtures("serving")
async def test_the_json_has_every_manifest_and_the_yaml_can_be_applied(
    kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, deployment(maxModelLen=512))
    assert await run("plan", "-f", path, "-o", "json", kubeconfig=kubeconfig) == 0
    (planned,) = json.loads(capsys.readouterr().out)
    assert planned["accepted"] is True
    assert {each["manifest"]["kind"] for each in planned["apply"]} >= {DEPLOYMENT, CONFIG_MAP}
    assert await run("plan", "-f", path, "-o", "yaml", kubeconfig=kubeconfig) == 0
    manifests = list(yaml.safe_load_all(capsys.readouterr().out))
    assert all({"apiVersion", "kind", "metadata"} <= each.keys() for each in manifests)


async def test_the_operators_own_settings_are_what_the_plan_goes_by(
    serving: FakeApi, kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = [{"name": "WENXIN_OPERATOR_RUNTIME_IMAGE", "value": "mine/runtime:2"}]
    container = {"name": "operator", "env": [*env, {"name": "WENXIN_OPERATOR_IDENTITY", "valueFrom": {}}]}
    installed = {
        "apiVersion": "apps/v1",
        "kind": DEPLOYMENT,
        "metadata": {
            "namespace": "system", "name": "wenxin-operator",
            "labels": {"app.kubernetes.io/name": "wenxin-operator"},
        },
        "spec": {"template": {"spec": {"containers": [container]}}},
    }  # fmt: skip
    await serving.put(installed)
    assert await run("plan", "-f", written(tmp_path, deployment()), "-o", "yaml", kubeconfig=kubeconfig) == 0
    told = capsys.readouterr()
    assert "mine/runtime:2" in told.out
    assert "default settings" not in told.err


async def test_what_one_may_not_see_is_said(
    api: FakeApi, kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.allows = lambda request: request.resource != "services"
    assert await run("plan", "-f", written(tmp_path, deployment()), kubeconfig=kubeconfig) == 0
    told = capsys.readouterr().err
    assert "you may not list services in here: the plan takes them for absent" in told
    assert "default settings" in told


async def test_a_cluster_without_the_chart_is_called_that(
    api: FakeApi, kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.lacks = {"wenxindeployments"}
    assert await run("plan", "-f", written(tmp_path, deployment()), kubeconfig=kubeconfig) == 2
    assert "install the chart first" in capsys.readouterr().err


async def test_a_resource_that_is_going_can_not_be_planned(
    api: FakeApi, kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    going = deployment()
    going["metadata"] |= {"deletionTimestamp": "2026-11-01T00:00:00Z"}
    await api.put(going)
    assert await run("plan", "-f", written(tmp_path, deployment()), kubeconfig=kubeconfig) == 2
    assert "is being deleted" in capsys.readouterr().err


def test_groups_of_pods_that_would_be_replaced_are_called_that() -> None:
    def groups(revision: str) -> Raw:
        template = {"metadata": {"labels": {LABEL_REVISION: revision}}}
        return {"kind": LEADER_WORKER_SET, "spec": {"leaderWorkerTemplate": {"workerTemplate": template}}}

    for after, replaced in (("old", False), ("new", True)):
        planned = Planned({}, {}, Changes((), ()), [groups(after)], [groups("old")])
        assert planned.replaces_pods is replaced
