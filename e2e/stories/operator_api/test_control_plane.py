import json
from pathlib import Path

import pytest

from e2e.harness.control_plane import ControlPlane
from e2e.harness.errors import CommandError

CONFIG = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}})


def test_objects_survive_a_restart_of_the_api_server_and_nothing_survives_the_block() -> None:
    with ControlPlane() as cp:
        cp.kubectl("apply", "--server-side", "--filename=-", stdin=CONFIG)
        cp.stop_apiserver()
        with pytest.raises(CommandError, match="refused"):
            cp.kubectl("get", "configmap", "a")
        cp.start_apiserver()
        assert json.loads(cp.kubectl("get", "configmap", "a", "--output=json"))["data"] == {"x": "1"}
        folder = cp.directory
    assert not folder.exists()
    assert not _mentions(folder)


def test_controllers_run_when_they_are_asked_for() -> None:
    with ControlPlane(controllers=["namespace-controller"]) as cp:
        cp.kubectl("create", "namespace", "short")
        cp.kubectl("delete", "namespace", "short", "--timeout=60s")
        assert cp.kubectl("get", "namespace", "short", "--ignore-not-found") == ""


def _mentions(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found
