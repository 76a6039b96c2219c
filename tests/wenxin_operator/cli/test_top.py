"""`kubectl wenxin top` asks the pods themselves, over the API server's port-forward."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.wenxin_operator.cli.commands import run
from tests.wenxin_operator.running import deployment
from wenxin_operator.cli.forward import PROTOCOL

BUSY = {"waiting": 3, "running": 4, "slots": 4, "queue_size": 100, "kv_usage": 0.75, "draining": False}
IDLE = BUSY | {"waiting": 0, "running": 0, "kv_usage": 0.0}


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def pod(name: str, *, ready: bool = True, **labels: str) -> dict[str, Any]:
    labels = {"serving.wenxin.io/deployment": "ernie", "app.kubernetes.io/component": "runtime", **labels}
    condition = {"type": "Ready", "status": str(ready)}
    return {
        "metadata": {"namespace": "here", "name": name, "labels": labels},
        "status": {"phase": "Running", "conditions": [condition]},
    }


class Server:
    """An API server that lists two kinds and lets one into pods."""

    def __init__(self) -> None:
        self.pods: list[dict[str, Any]] = []
        self.deployments = [deployment()]
        self.answers: dict[str, list[bytes]] = {}  # what a pod sends, message by message, channels included
        self.asked: list[str] = []

    async def listed(self, request: web.Request) -> web.Response:
        items = self.pods if request.path.endswith("/pods") else self.deployments
        return web.json_response({"items": items, "metadata": {"resourceVersion": "5"}})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self.answers:
            return web.Response(status=403)
        assert request.query["ports"] == "8000"
        assert request.headers["Accept"] == "*/*"  # the real one answers 406 to application/json
        channel = web.WebSocketResponse(protocols=(PROTOCOL,))
        await channel.prepare(request)
        for number in (0, 1):
            await channel.send_bytes(bytes([number, 0x40, 0x1F]))
        self.asked.append((await channel.receive_bytes())[1:].decode())
        for message in self.answers[name]:
            await channel.send_bytes(message)
        await channel.close()
        return channel


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    serving = Server()
    application = web.Application()
    application.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}/portforward", serving.forward)
    application.router.add_get("/{path:.*}", serving.listed)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
    yield serving
    await runner.cleanup()


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    context = "contexts: [{name: a, context: {cluster: c, user: u, namespace: here}}]\nusers: [{name: u, user: {}}]"
    cluster = f"clusters: [{{name: c, cluster: {{server: '{server.url}'}}}}]"  # type: ignore[attr-defined]
    path.write_text(f"current-context: a\n{context}\n{cluster}\n")
    return path


def says(load: dict[str, Any]) -> list[bytes]:
    whole = answer(json.dumps(load).encode())
    return [b"\x00" + whole[:20], b"\x00" + whole[20:]]


async def test_the_pods_of_a_deployment_are_summed(
    server: Server, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pods = [pod("a"), pod("b")]
    server.answers = {"a": says(BUSY), "b": says(IDLE)}
    assert await run("top", kubeconfig=place) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAMESPACE", "NAME", "ANSWER", "RUNNING", "SLOTS", "WAITING", "QUEUE", "KV", "CACHE"]
    assert line.split() == ["here", "ernie", "2/2", "4", "8", "3", "200", "75%"]
    assert server.asked[0].startswith("GET /load HTTP/1.1\r\nHost: ")


async def test_each_pod_has_its_line_where_that_is_asked_for(
    server: Server, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pods = [pod("a"), pod("b", ready=False)]
    server.answers = {"a": says(BUSY)}
    assert await run("top", "ernie", "--pods", kubeconfig=place) == 1
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["here", "ernie", "a", "4", "4", "3", "100", "75%"]
    assert second.split() == ["here", "ernie", "b", *["-"] * 5]


async def test_a_program_gets_numbers(server: Server, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.pods = [pod("a")]
    server.answers = {"a": says(BUSY)}
    assert await run("top", "-o", "json", kubeconfig=place) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {"namespace": "here", "deployment": "ernie", "pod": "a", "load": {**BUSY, "cache": ""}}


async def test_only_pods_that_answer_requests_are_asked(
    server: Server, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = {"serving.wenxin.io/group": "g", "apps.kubernetes.io/pod-index": "1"}
    server.pods = [pod("member", **group), pod("redis", **{"app.kubernetes.io/component": "redis"}), pod("a")]
    server.answers = {"a": says(IDLE)}
    assert await run("top", "--pods", kubeconfig=place) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([b"\x01connection refused"], "connection refused"),
        ([b"\x00" + answer(b"", "503 Service Unavailable")], "answered 503"),
        ([b"\x00HTTP/1.1 2"], "cut short or no HTTP"),
        ([], "cut short or no HTTP"),
        ([b"\x00" + answer(b"not JSON")], "Expecting value"),
    ],
)
async def test_a_pod_that_does_not_answer_is_missing_and_says_why(
    server: Server, place: Path, capsys: pytest.CaptureFixture[str], messages: list[bytes], said: str
) -> None:
    server.pods = [pod("a")]
    server.answers = {"a": messages}
    assert await run("top", kubeconfig=place) == 1
    told = capsys.readouterr()
    assert said in told.err
    assert told.out.splitlines()[1].split() == ["here", "ernie", "0/1", *["-"] * 5]


async def test_who_may_not_forward_ports_is_told_so(
    server: Server, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pods = [pod("a")]
    assert await run("top", kubeconfig=place) == 1
    assert "refuses a port-forward (403)" in capsys.readouterr().err


async def test_a_deployment_that_is_not_there_is_an_error(
    server: Server, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.deployments = []
    assert await run("top", kubeconfig=place) == 2
    assert "no WenxinDeployment here" in capsys.readouterr().err
