"""`kubectl wenxin cache` runs `wenxin-runtime cache` in a pod, over the API server's exec, and asks all for metrics."""

# ruff: noqa: F811 - fixtures of test_top

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.wenxin_operator.cli.commands import run
from tests.wenxin_operator.cli.test_top import Server, answer, place, pod  # noqa: F401 - a fixture
from tests.wenxin_operator.running import deployment
from wenxin_operator.cli import execute

STORED = {
    "space": "0123456789ab",
    "entries": 1234,
    "bytes": 3 * 2**20,
    "memory": {"used": 2**30, "limit": 3 * 2**30, "evicted": 7, "policy": "allkeys-lfu"},
}
SUCCESS = json.dumps({"status": "Success"}).encode()


def metrics(breaker: float = 0.0, **counts: int) -> list[bytes]:
    lines = [f'wenxin_answer_cache_requests_total{{result="{name}"}} {float(count)}' for name, count in counts.items()]
    text = "\n".join([*lines, f"wenxin_answer_cache_breaker_open {breaker}", ""])
    return [b"\x00" + answer(text.encode())]


class WithExec(Server):
    """An API server that also runs commands in pods."""

    def __init__(self) -> None:
        super().__init__()
        self.deployments = [deployment(answerCache={"redis": {"managed": {}}})]
        self.messages: list[bytes] = []
        self.commands: list[list[str]] = []
        self.refuses = 0

    async def listed(self, request: web.Request) -> web.Response:
        if request.path.endswith("/wenxindeployments/ernie") and self.deployments:
            return web.json_response(self.deployments[0])
        if "/wenxindeployments/" in request.path:
            return web.json_response({"message": "gone"}, status=404)
        return await super().listed(request)

    async def executes(self, request: web.Request) -> web.StreamResponse:
        if self.refuses:
            return web.Response(status=self.refuses)
        assert request.query["container"] == "runtime"
        assert request.headers["Accept"] == "*/*"
        self.commands.append(request.query.getall("command"))
        channel = web.WebSocketResponse(protocols=execute.PROTOCOLS)
        await channel.prepare(request)
        for message in self.messages:
            await channel.send_bytes(message)
        await channel.close()
        return channel

    def prints(self, told: Any, *errors: str) -> None:
        whole = json.dumps(told).encode()
        parts = (whole[:9], whole[9:])
        self.messages = [*(b"\x02" + each.encode() for each in errors), *(b"\x01" + each for each in parts)]
        self.messages.append(b"\x03" + SUCCESS)


@pytest.fixture
async def server() -> AsyncIterator[WithExec]:
    serving = WithExec()
    serving.pods = [pod("a"), pod("b"), pod("c", ready=False)]
    application = web.Application()
    pods = "/api/v1/namespaces/{namespace}/pods/{name}"
    application.router.add_get(f"{pods}/portforward", serving.forward)
    application.router.add_get(f"{pods}/exec", serving.executes)
    application.router.add_get("/{path:.*}", serving.listed)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
    yield serving
    await runner.cleanup()


async def test_what_redis_holds_and_what_all_pods_have_counted(
    server: WithExec,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.prints(STORED)
    server.answers = {"a": metrics(hit=6, shared=1, miss=2, bypass=1), "b": metrics(hit=9, miss=1)}
    assert await run("cache", "stats", "ernie", kubeconfig=place) == 0
    assert capsys.readouterr().out.splitlines() == [
        "answers   1,234, 3 MiB",
        "redis     1.0 GiB of 3.0 GiB used, 7 evicted (allkeys-lfu)",
        "requests  80% repeated: 15 hit, 1 shared, 3 miss, 1 bypass, in 2 of 2 pods",
    ]
    assert server.commands == [["wenxin-runtime", "cache", "stats", "-o", "json"]]


async def test_a_program_gets_all_of_it_and_a_pod_without_redis_is_an_exit_code(
    server: WithExec,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.prints(STORED)
    server.answers = {"a": metrics(breaker=1.0, miss=1)}  # b does not answer
    assert await run("cache", "stats", "ernie", "--all", "-o", "json", kubeconfig=place) == 1
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert {name: told[name] for name in STORED} == STORED
    assert told["pods"] == {"asked": 2, "answered": 1, "withoutRedis": ["a"]}
    assert told["requests"] == {"miss": 1, "repeated": 0.0}
    assert "pod b" in shown.err
    assert server.commands[0][-1] == "--all"


async def test_a_person_hears_which_pods_are_without(
    server: WithExec,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.prints(STORED | {"memory": None})
    server.answers = {"a": metrics(breaker=1.0), "b": metrics()}
    assert await run("cache", "stats", "ernie", kubeconfig=place) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert (first, second) == ("answers   1,234, 3 MiB", "requests  0% repeated: none, in 2 of 2 pods")
    assert third.startswith("without   a: ")


@pytest.mark.parametrize(("said", "code"), [("y\n", 0), ("\n", 1), ("", 1)])
async def test_a_flush_is_asked_for_twice(
    server: WithExec,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    code: int,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    server.prints({"space": "0123456789ab", "entries": 1500}, "500 flushed\n", "1,500 flushed\n")
    assert await run("cache", "flush", "ernie", kubeconfig=place) == code
    shown = capsys.readouterr()
    assert "the model of ernie" in shown.err
    if code == 0:
        assert server.commands == [["wenxin-runtime", "cache", "flush", "-o", "json", "--yes"]]
        assert "1,500 flushed" in shown.err
        assert shown.out == "1,500 answers of the model of ernie flushed\n"
    else:
        assert server.commands == []


async def test_who_has_agreed_already_is_not_asked(
    server: WithExec,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.prints({"space": "", "entries": 2})
    assert await run("cache", "flush", "ernie", "--all", "--yes", "-o", "json", kubeconfig=place) == 0
    assert json.loads(capsys.readouterr().out) == {"space": "", "entries": 2}


async def test_what_cannot_be_asked_is_told(
    server: WithExec,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def says(*arguments: str) -> str:
        assert await run("cache", "stats", *arguments, kubeconfig=place) == 2
        return capsys.readouterr().err

    failure = json.dumps({"status": "Failure", "message": "command terminated with exit code 2"}).encode()
    server.messages = [b"\x02wenxin-runtime cache: ConnectionError\n", b"\x03" + failure]
    said = await says("ernie")
    assert "ConnectionError" in said
    assert "exit code 2" in said
    server.messages = [b"\x01{"]
    assert "broke" in await says("ernie")
    server.refuses = 403
    assert "refuses exec (403)" in await says("ernie")
    server.pods = [pod("c", ready=False)]
    assert "no pod of WenxinDeployment ernie is ready" in await says("ernie")
    server.deployments = [deployment()]
    assert "has no spec.answerCache" in await says("ernie")
    assert "no WenxinDeployment other" in await says("other")


async def test_a_runtime_that_says_something_else_is_an_error_in_words(
    server: WithExec, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.messages = [b"\x01nonsense", b"\x03" + SUCCESS]
    assert await run("cache", "stats", "ernie", kubeconfig=place) == 2
    assert "its runtime does not say what its answer cache holds" in capsys.readouterr().err
