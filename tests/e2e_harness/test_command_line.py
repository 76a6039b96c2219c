import subprocess
import sys
from pathlib import Path

import pytest

from e2e.harness import choice
from e2e.harness.backend import Backend
from e2e.harness.cluster import Cluster
from e2e.harness.errors import HarnessError, NotOursError, WaitError
from e2e.harness.existing import Existing
from e2e.harness.kind import Kind
from e2e.harness.local import Local

REPOSITORY = Path(__file__).parents[2]


def harness(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "e2e.harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_help_names_every_command_and_gives_examples() -> None:
    shown = harness("--help").stdout
    for verb in ("up", "down", "status", "kubectl", "helm", "shell", "images", "prepare", "test", "demo"):
        assert f"\n    {verb} " in shown
    assert "examples:" in shown


@pytest.mark.parametrize(("verb", "nodes"), [("up", 1), ("demo", 1), ("test", 2)])
def test_the_stories_get_two_nodes_unless_told_otherwise(verb: str, nodes: int) -> None:
    assert f"number of nodes (default: {nodes})" in harness(verb, "--help").stdout


def test_an_unknown_option_is_an_error_that_names_it() -> None:
    done = harness("up", "--nodez", "2")
    assert done.returncode == 2
    assert "--nodez" in done.stderr


def test_errors_are_one_message_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    done = harness("status", "--backend", "existing")
    assert done.returncode == 1
    assert done.stderr == "error: Say which cluster: export KUBECONFIG=FILE\n"


@pytest.mark.parametrize(("word", "kind"), [("local", Local), ("kind", Kind), ("existing", Existing)])
def test_the_backend_is_the_one_that_was_asked_for(word: str, kind: type[Backend]) -> None:
    assert isinstance(choice.backend(word), kind)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(HarnessError, match="There is no backend 'minikube'"):
        choice.backend("minikube")


def test_an_existing_cluster_is_never_removed() -> None:
    with pytest.raises(NotOursError, match="did not make the cluster"):
        Existing().down()


def test_waiting_says_what_was_waited_for() -> None:
    with pytest.raises(WaitError, match="Waited 0 s for the moon"):
        Cluster(Existing()).wait(lambda: None, seconds=0, what="the moon")
