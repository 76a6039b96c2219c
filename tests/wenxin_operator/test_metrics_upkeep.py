"""Secret, APIServices and what is served stay in step, whoever leads and whatever goes missing."""

import asyncio
import base64
import copy
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from e2e.harness.pki import Authority
from tests.wenxin_operator.api_requests import merged
from wenxin_operator import load
from wenxin_operator.errors import ApiError, Conflict, Forbidden, NotFound
from wenxin_operator.load import Load
from wenxin_operator.metrics_api.callers import FrontProxy
from wenxin_operator.metrics_api.certificates import AUTHORITY_LIFE, CERTIFICATE_LIFE, Credentials
from wenxin_operator.metrics_api.service import MetricsService
from wenxin_operator.metrics_api.upkeep import AGAIN_SECONDS, FRONT_PROXY, LOOK_SECONDS, SOON_SECONDS, Upkeep
from wenxin_operator.names import API_VERSION, POD, WENXIN_DEPLOYMENT, Raw
from wenxin_operator.settings import Settings
from wenxin_operator.store import Store
from wenxin_operator.telemetry import Telemetry

SECRET = "/api/v1/namespaces/system/secrets/metrics-api"
SERVICES = [
    f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.custom.metrics.k8s.io" for version in ("v1beta2", "v1beta1")
]
NOW = datetime.now(UTC)


@dataclass
class Server:
    """The few objects of an API server that upkeep is about."""

    objects: dict[str, Raw]
    writes: list[str] = field(default_factory=list)
    refuse: Callable[[str, str], ApiError | None] = lambda _method, _path: None

    async def send(self, method: str, path: str, *, body: Any = None, **_: Any) -> Raw:
        if error := self.refuse(method, path):
            raise error
        if path.endswith("subjectaccessreviews"):
            return {"status": {"allowed": True}}
        if path.endswith("tokenreviews"):
            return {"status": {"authenticated": True, "user": {"username": "ann"}}}
        if path not in self.objects:
            raise NotFound(f"no {path}", status=404)
        if method == "GET":
            return copy.deepcopy(self.objects[path])
        self.writes.append(f"{method} {path.rpartition('/')[2]}")
        if method == "PUT":
            if body["metadata"] != self.objects[path]["metadata"]:
                raise Conflict("modified", status=409)
            version = int(body["metadata"]["resourceVersion"]) + 1
            self.objects[path] = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
        else:
            self.objects[path] = merged(self.objects[path], body)
        return self.objects[path]

    def held(self) -> Credentials:
        found = Credentials.from_data(self.objects[SECRET]["data"])
        assert found
        return found

    def trusted(self) -> list[bytes]:
        return [base64.b64decode(self.objects[path]["spec"].get("caBundle", "")) for path in SERVICES]


@dataclass
class Copy:
    """One copy's upkeep, and what it serves."""

    server: Server
    leads: bool = True
    now: datetime = NOW
    served: list[tuple[Credentials, FrontProxy]] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def exchange(held: Credentials, front: FrontProxy) -> None:
            self.served.append((held, front))

        self.upkeep = Upkeep(
            self.server.send,
            namespace="system",
            name="metrics-api",
            leads=lambda: self.leads,
            exchange=exchange,
            now=lambda: self.now,
        )


@pytest.fixture
def server(tmp_path: Path) -> Server:
    front = Authority.create(tmp_path, "front")
    front.issue("front-client", "front-proxy-client")
    data = {
        "requestheader-client-ca-file": front.path.read_text(),
        "requestheader-allowed-names": '["front-proxy-client"]',
        "requestheader-username-headers": '["X-Remote-User"]',
    }
    services = {path: {"metadata": {"name": "x"}, "spec": {"group": "custom.metrics.k8s.io"}} for path in SERVICES}
    secret = {"metadata": {"name": "metrics-api", "resourceVersion": "1"}, "type": "Opaque"}
    return Server({SECRET: secret, FRONT_PROXY: {"data": data}, **services})


async def test_the_copy_that_leads_fills_the_secret_and_tells_the_api_server_whom_to_trust(server: Server) -> None:
    leader = Copy(server)
    assert await leader.upkeep.look() == LOOK_SECONDS
    assert server.trusted() == [server.held().bundle] * 2
    assert [held for held, _ in leader.served] == [server.held()]
    assert server.objects[SECRET]["type"] == "Opaque", "the rest of the Secret is the chart's"


async def test_at_rest_nothing_is_written_and_nothing_exchanged(server: Server) -> None:
    leader = Copy(server)
    await leader.upkeep.look()
    server.writes.clear()
    await leader.upkeep.look()
    assert (server.writes, len(leader.served)) == ([], 1)


async def test_a_copy_that_does_not_lead_writes_nothing_and_serves_the_same(server: Server) -> None:
    leader, other = Copy(server), Copy(server, leads=False)
    assert await other.upkeep.look() == SOON_SECONDS
    assert server.writes == []
    await leader.upkeep.look()
    assert await other.upkeep.look() == LOOK_SECONDS
    assert other.served == leader.served


async def test_renewals_reach_every_copy_without_a_restart(server: Server) -> None:
    leader, other = Copy(server), Copy(server, leads=False)
    for copy_ in (leader, other):
        await copy_.upkeep.look()
    await other.upkeep.look()
    leader.now += CERTIFICATE_LIFE
    await leader.upkeep.look()
    await other.upkeep.look()
    assert leader.served[-1] == other.served[-1] != leader.served[0]
    assert server.trusted()[0] == leader.served[0][0].bundle, "the authority is the same"


async def test_a_new_authority_is_trusted_before_anybody_serves_what_it_issued(server: Server) -> None:
    leader = Copy(server)
    await leader.upkeep.look()
    first = server.held()
    leader.now += AUTHORITY_LIFE - timedelta(days=500)
    await leader.upkeep.look()
    assert server.held().certificate == first.certificate
    assert first.authorities[0] in server.held().authorities
    assert server.trusted() == [server.held().bundle] * 2
    await leader.upkeep.look()
    assert server.held().certificate != first.certificate


async def test_what_was_served_survives_the_loss_of_the_secrets_data(server: Server) -> None:
    leader = Copy(server)
    await leader.upkeep.look()
    held = server.held()
    server.objects[SECRET] |= {"data": {}}
    await leader.upkeep.look()
    assert server.held() == held


async def test_a_trust_that_somebody_took_away_is_given_back(server: Server) -> None:
    leader = Copy(server)
    await leader.upkeep.look()
    server.objects[SERVICES[0]] = {"metadata": {"name": "x"}, "spec": {}}
    await leader.upkeep.look()
    assert server.trusted() == [server.held().bundle] * 2


async def test_of_two_that_think_they_lead_one_writes(server: Server) -> None:
    server.refuse = lambda method, _: Conflict("modified", status=409) if method == "PUT" else None
    assert await Copy(server).upkeep.look() == SOON_SECONDS


@pytest.mark.parametrize(
    ("error", "hint"),
    [(NotFound("no such secret", status=404), True), (Forbidden("may not", status=403), True), (OSError("x"), False)],
    ids=["missing", "forbidden", "other"],
)
async def test_trouble_is_logged_once_with_what_to_do(
    server: Server, caplog: pytest.LogCaptureFixture, error: Any, *, hint: bool
) -> None:
    server.refuse = lambda _method, _path: error
    leader = Copy(server)
    assert [await leader.upkeep.look() for _ in range(3)] == [AGAIN_SECONDS] * 3
    assert len(caplog.records) == 1
    assert ("where metrics.provider is embedded" in caplog.text) is hint


async def test_even_what_nobody_thought_of_does_not_end_it(server: Server) -> None:
    server.objects[FRONT_PROXY] = {"data": {"requestheader-client-ca-file": "x", "requestheader-allowed-names": "{"}}
    assert await Copy(server).upkeep.look() == AGAIN_SECONDS
    server.refuse = lambda _method, _path: KeyError("x")
    assert await Copy(server).upkeep.look() == AGAIN_SECONDS


async def test_a_copy_answers_once_it_has_asked_every_pod(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole service, from the pod's words to HTTPS."""
    asked = asyncio.Event()

    async def ask(_session: object, _pod: Raw) -> Load:
        await asked.wait()
        return Load(3, 1, 4, 10)

    monkeypatch.setattr(load, "ask", ask)
    caplog.set_level("INFO")
    labels = {"serving.wenxin.io/deployment": "ernie", "app.kubernetes.io/component": "runtime"}
    store, telemetry = Store(("serving.wenxin.io/deployment",)), Telemetry()
    about: dict[str, Any] = {"apiVersion": API_VERSION, "kind": WENXIN_DEPLOYMENT}
    meta = {"namespace": "team", "resourceVersion": "1", "uid": "u"}
    store.put(WENXIN_DEPLOYMENT, {**about, "metadata": {**meta, "name": "ernie"}, "spec": {"autoscaling": {"a": 1}}})
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    store.put(POD, {"kind": POD, "metadata": {**meta, "name": "a", "labels": labels}, "status": ready})
    filled = asyncio.Event()
    settings = Settings(http_host="127.0.0.1", metrics_https_port=0, lease_namespace="system", lease_name="x")
    server.objects["/api/v1/namespaces/system/secrets/x-metrics-api"] = server.objects.pop(SECRET)
    service = MetricsService(settings, store, server, telemetry, leads=lambda: True, filled=filled)
    running = asyncio.create_task(service.run())
    filled.set()
    async with asyncio.timeout(20):
        while "on port" not in caplog.text or not server.writes:  # noqa: ASYNC110 - watches a log
            await asyncio.sleep(0.01)
        assert telemetry.registry.get_sample_value("wenxin_operator_load_samples") == 0
        asked.set()
        port = int(caplog.text.partition("on port ")[2].split()[0])
        context = ssl.create_default_context(cadata=server.trusted()[0].decode())
        path = f"https://127.0.0.1:{port}/apis/custom.metrics.k8s.io/v1beta2/namespaces/team/pods/a/wenxin_queue_depth"
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.get(
                path, headers={"Authorization": "Bearer t"}, server_hostname="x-metrics-api.system.svc"
            ) as response,
        ):
            assert (await response.json())["items"][0]["value"] == "3"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    samples = telemetry.registry.get_sample_value
    assert samples("wenxin_operator_load_polls_total", {"outcome": "answered"}) == 1
    assert samples("wenxin_operator_metrics_api_requests_total", {"code": "200"}) == 1
