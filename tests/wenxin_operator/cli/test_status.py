"""`kubectl wenxin status` says how it is and why, and its exit code says it to scripts."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.wenxin_operator.cli.commands import run
from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.running import deployment
from wenxin_operator.cli.__main__ import main
from wenxin_operator.cli.status import render


def condition(kind: str, status: str, reason: str, message: str, generation: int = 1) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation}


STATUS = {
    "readyReplicas": 1,
    "endpoint": "http://ernie.here.svc:8000/v1",
    "model": {
        "name": "ernie",
        "architecture": "Ernie4_5ForCausalLM",
        "parameters": 361_000,
        "contextLength": 131072,
        "digest": "sha256:0123456789abcdef",
    },
    "conditions": [
        condition("Accepted", "True", "Valid", "the spec is valid"),
        condition("Ready", "True", "Serving", "1 pod serves"),
    ],
}


async def test_a_ready_deployment_is_shown_with_its_model_and_conditions(
    api: FakeApi, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.put({**deployment(), "status": STATUS}, status=True)
    assert await run("status", "ernie", "-n", "here", "--kubeconfig", str(kubeconfig)) == 0
    assert capsys.readouterr().out == (
        "here/ernie: 1 of 1 ready\n"
        "  endpoint  http://ernie.here.svc:8000/v1\n"
        "  model     ernie, Ernie4_5ForCausalLM, 361,000 parameters, 131072 tokens of context, sha256:0123456789ab\n"
        "  Accepted  True     Valid: the spec is valid\n"
        "  Ready     True     Serving: 1 pod serves\n"
    )


def test_a_mixture_of_experts_and_narrow_weights_are_told() -> None:
    model = {**STATUS["model"], "parameters": 21_825_000_000, "activeParameters": 3_350_000_000}
    shown = render({**deployment(quantization="int8"), "status": {**STATUS, "model": model}})
    assert "21,825,000,000 parameters (3,350,000,000 active), int8 weights, 131072 tokens" in shown


async def test_all_of_a_namespace_are_shown_and_one_that_is_not_ready_makes_the_exit_code_1(
    api: FakeApi, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.put({**deployment(), "status": STATUS}, status=True)
    await api.put(deployment("new"))
    assert await run("status", "-n", "here", "--kubeconfig", str(kubeconfig)) == 1
    shown = capsys.readouterr().out
    assert "here/ernie: 1 of 1 ready" in shown
    assert "here/new: 0 of 1 ready\n  no status yet: does the operator run" in shown


async def test_what_is_not_there_or_can_not_be_asked_makes_the_exit_code_2(
    api: FakeApi, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in ("text", "json"):
        assert await run("status", "ernie", "--kubeconfig", str(kubeconfig), "-o", output) == 2
        told = capsys.readouterr()
        assert "no WenxinDeployment ernie" in told.err
        assert not told.out
    assert await run("status", "--kubeconfig", str(kubeconfig), "--kube-context", "nowhere") == 2
    assert "no context named nowhere" in capsys.readouterr().err
    assert await run("status", "--kubeconfig", "/nowhere") == 2
    assert "kubeconfig /nowhere" in capsys.readouterr().err
    api.token = "secret"
    assert await run("status", "--kubeconfig", str(kubeconfig)) == 2
    assert "Unauthorized" in capsys.readouterr().err


def test_a_status_of_an_older_spec_is_called_that() -> None:
    metadata = {"namespace": "here", "name": "ernie", "generation": 2}
    shown = render({"metadata": metadata, "spec": {"replicas": 3}, "status": STATUS})
    assert "1 of 3 ready" in shown
    assert "has yet to see the newest spec" in shown


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"], {}) == 0
    assert capsys.readouterr().out.startswith("kubectl-wenxin ")


async def test_programs_get_json_with_the_conditions(
    api: FakeApi, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.put({**deployment(), "status": STATUS}, status=True)
    assert await run("status", "-A", "-o", "json", kubeconfig=kubeconfig) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["namespace"], shown["name"], shown["ready"], shown["readyReplicas"]) == ("here", "ernie", True, 1)
    assert [each["type"] for each in shown["conditions"]] == ["Accepted", "Ready"]


@pytest.mark.usefixtures("api")
async def test_a_name_is_of_one_namespace(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("status", "ernie", "-A", kubeconfig=kubeconfig) == 2
    assert "leave out --all-namespaces" in capsys.readouterr().err
