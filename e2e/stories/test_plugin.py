"""A person looks and asks with `kubectl wenxin`, found by kubectl as any plugin is."""

import json
import subprocess
import sys
from pathlib import Path

from e2e.harness import demo
from e2e.harness.cluster import Cluster
from e2e.stories.endpoint import Endpoint


def wenxin(cluster: Cluster, *arguments: str, namespace: str) -> subprocess.CompletedProcess[str]:
    """Run kubectl, with the programs of this environment on its PATH."""
    path = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
    command = [*cluster.kubectl_command(), "wenxin", *arguments, f"--namespace={namespace}"]
    return subprocess.run(
        cluster.backend.client(command),
        env=cluster.environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_deployment_that_serves_is_shown_with_what_its_pods_do(tiny: Endpoint) -> None:
    status = wenxin(tiny.cluster, "status", "tiny", namespace=tiny.namespace)
    assert status.returncode == 0, status.stderr
    assert f"{tiny.namespace}/tiny: 1 of 1 ready" in status.stdout
    top = wenxin(tiny.cluster, "top", "tiny", "-o", "json", namespace=tiny.namespace)
    assert top.returncode == 0, top.stderr
    (row,) = json.loads(top.stdout)
    assert row["load"]["slots"] == tiny.get()["spec"]["engine"]["maxNumSeqs"]
    assert row["load"]["running"] == 0


def test_a_plan_of_what_is_there_changes_nothing_and_one_of_a_change_says_what(tiny: Endpoint, tmp_path: Path) -> None:
    before = tiny.get()["metadata"]
    same = wenxin(tiny.cluster, "plan", "-f", str(demo.EXAMPLE), "-o", "json", namespace=tiny.namespace)
    assert same.returncode == 0, same.stderr
    assert [(each["apply"], each["delete"]) for each in json.loads(same.stdout)] == [([], [])]
    changed = {**tiny.manifest, "spec": {**tiny.manifest["spec"], "maxModelLen": 128}}
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(changed))
    other = wenxin(tiny.cluster, "plan", "-f", str(path), "-o", "json", namespace=tiny.namespace)
    (planned,) = json.loads(other.stdout)
    assert planned["replacesPods"] is True
    assert {each["manifest"]["kind"] for each in planned["apply"]} >= {"Deployment", "ConfigMap"}
    assert tiny.get()["metadata"]["resourceVersion"] == before["resourceVersion"]
