"""The shell is told what the parser takes, and what the cluster has."""

import subprocess
from pathlib import Path

import pytest

from tests.wenxin_operator.cli.commands import run
from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.running import deployment
from wenxin_operator.cli.__main__ import COMMANDS, answer_kubectl, main


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ([""], sorted([*COMMANDS, "version", "-h", "--help"])),
        (["st"], ["status"]),
        (["status", "-o", ""], ["json", "text"]),
        (["status", "--all"], ["--all-namespaces"]),
        (["fit", "ernie-4.5-3"], ["ernie-4.5-300b-a47b", "ernie-4.5-300b-a47b-base"]),
        (["completion", "z"], ["zsh"]),
        (["plan", "-f", "x"], []),
        (["status", "-n", "x"], []),
    ],
)
def test_what_may_come_next_is_offered(capsys: pytest.CaptureFixture[str], words: list[str], offers: list[str]) -> None:
    assert main(["__complete", *words], {"HOME": "/nowhere"}) == 0
    assert capsys.readouterr().out.splitlines() == offers


async def test_names_come_from_the_cluster(api: FakeApi, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await api.put(deployment("ernie"))
    await api.put(deployment("other"))
    assert await run("__complete", "status", "-n", "here", "--kubeconfig", str(kubeconfig), "er") == 0
    assert capsys.readouterr().out.splitlines() == ["ernie"]


def test_kubectl_gets_the_directive_that_no_file_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_kubectl(["sta"], {"HOME": "/nowhere"}) == 0
    assert capsys.readouterr().out.splitlines() == ["status", ":4"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell], {}) == 0
    assert "kubectl-wenxin __complete" in capsys.readouterr().out


def test_bash_takes_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"], {})
    script = capsys.readouterr().out + "COMP_WORDS=(kubectl-wenxin pl) COMP_CWORD=1\nkubectl-wenxin() { echo plan; }\n"
    done = subprocess.run(
        ["bash", "-euc", script + "_kubectl_wenxin; echo ${COMPREPLY[0]}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "plan\n"
