"""The kubeconfigs of clouds name a program that prints a token."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator.connection import from_kubeconfig
from wenxin_operator.errors import ConfigurationError
from wenxin_operator.exec_credential import ExecToken

PROGRAM = """
import json, os, pathlib
asked = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert asked["kind"] == "ExecCredential"
count = pathlib.Path(os.environ["COUNT"])
number = int(count.read_text() or 0) + 1 if count.exists() else 1
count.write_text(str(number))
status = {"token": f"token-{number}"} | json.loads(os.environ.get("MORE", "{}"))
print(json.dumps({"apiVersion": asked["apiVersion"], "kind": "ExecCredential", "status": status}))
"""


def plugin(folder: Path, program: str = PROGRAM, **more: Any) -> dict[str, Any]:
    env = [{"name": "COUNT", "value": str(folder / "count")}, {"name": "MORE", "value": json.dumps(more)}]
    version = "client.authentication.k8s.io/v1"
    return {"apiVersion": version, "command": sys.executable, "args": ["-c", program], "env": env}


def test_the_token_is_what_the_program_prints_and_is_kept(tmp_path: Path) -> None:
    token = ExecToken("here", plugin(tmp_path))
    assert [token(), token(), token(fresh=True)] == ["token-1", "token-1", "token-2"]


def test_a_token_is_not_used_to_its_last_moment(tmp_path: Path) -> None:
    token = ExecToken("here", plugin(tmp_path, expirationTimestamp="2026-01-01T00:00:00Z"))
    assert [token(), token()] == ["token-1", "token-2"]
    lasting = ExecToken("here", plugin(tmp_path, expirationTimestamp="2996-01-01T00:00:00Z"))
    assert [lasting(), lasting()] == ["token-3", "token-3"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('hello')", "printed no ExecCredential"),
        ("print('{}')", "printed no"),
        ("raise SystemExit(3)", "status 3"),
    ],
)
def test_a_program_that_prints_no_token_is_named(tmp_path: Path, program: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ExecToken("kubeconfig x: users[].user.exec", plugin(tmp_path, program))()


def test_a_program_that_is_missing_is_named_with_its_hint() -> None:
    missing = {"command": "/nowhere/cloud-auth", "installHint": "install cloud-auth"}
    with pytest.raises(ConfigurationError, match="cloud-auth is not there; install cloud-auth"):
        ExecToken("here", missing)()


async def test_a_kubeconfig_with_a_program_logs_in(api: FakeApi, tmp_path: Path) -> None:
    api.token = "token-1"
    user = {"name": "u", "user": {"exec": plugin(tmp_path)}}
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "users": [user],
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    endpoint = from_kubeconfig(path)
    async with endpoint.session(timeout=5) as session, session.get(f"{api.url}/api/v1/pods") as response:
        assert response.status == 200


def test_a_program_with_a_folder_is_looked_for_from_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "login").symlink_to(sys.executable)
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://c"}}],
        "users": [{"name": "c", "user": {"exec": {**plugin(tmp_path), "command": "./bin/login"}}}],
    }
    (tmp_path / "k").write_text(json.dumps(config))
    token = from_kubeconfig(tmp_path / "k").token
    assert token is not None
    assert token() == "token-1"
