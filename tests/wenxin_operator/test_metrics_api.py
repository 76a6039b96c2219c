"""custom.metrics.k8s.io as the API server meets it: real TLS, real requests, an API server that reviews on command."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from e2e.harness.pki import Authority
from wenxin_operator.errors import Unreachable
from wenxin_operator.load import Load
from wenxin_operator.load_poller import Sample
from wenxin_operator.metrics_api import callers
from wenxin_operator.metrics_api.callers import FrontProxy, Reviews
from wenxin_operator.metrics_api.certificates import Credentials, renewed
from wenxin_operator.metrics_api.server import MetricsApi
from wenxin_operator.names import POD, Raw

HOST = "metrics-api.system.svc"
GROUP = "/apis/custom.metrics.k8s.io"
PODS = f"{GROUP}/v1beta2/namespaces/team/pods"
ON_BEHALF = {"X-Remote-User": "hpa", "X-Remote-Group": "system:masters"}


@dataclass
class Cluster:
    """Pods with and without a sample, and an API server that says what it is told to say."""

    pods: dict[str, Raw] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    allowed: bool = True
    away: bool = False
    reviews: list[Raw] = field(default_factory=list)
    now: float = 0.0

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        return self.pods.get(name) if (kind, namespace) == (POD, "team") else None

    def all(self, kind: str, namespace: str) -> list[Raw]:
        return list(self.pods.values()) if (kind, namespace) == (POD, "team") else []

    def sample(self, pod: Raw) -> Sample | None:
        load = self.loads.get(pod["metadata"]["name"])
        return Sample(load, 0.0) if load else None

    def age(self, sample: Sample) -> float:
        return 7.0 - sample.at

    async def send(self, method: str, path: str, *, body: Raw) -> Raw:
        if self.away:
            raise Unreachable("away")
        assert method == "POST"
        self.reviews.append(body)
        if path.endswith("tokenreviews"):
            user = {"username": "ann", "uid": "7", "groups": ["team"], "extra": {"scope": ["x"]}}
            known = body["spec"]["token"] == "good"
            return {"status": {"authenticated": known, "user": user if known else {}}}
        return {"status": {"allowed": self.allowed}}


@dataclass
class Api:
    """The API under test, and how to ask it."""

    url: str
    cluster: Cluster
    server: MetricsApi
    held: Credentials
    front: FrontProxy
    folder: Path
    codes: list[int]

    async def get(
        self, path: str, *, client: str | None = "front-client", trust: bytes = b"", **options: Any
    ) -> tuple[int, Any]:
        context = ssl.create_default_context(cadata=(trust or self.held.bundle).decode())
        if client:
            context.load_cert_chain(self.folder / f"{client}.crt", self.folder / f"{client}.key")
        connector = aiohttp.TCPConnector(ssl=context, force_close=True)
        method = options.pop("method", "GET")
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, self.url + path, server_hostname=HOST, **options) as response,
        ):
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()


def front_proxy(authority: Path) -> FrontProxy:
    return FrontProxy.from_data(
        {
            "requestheader-client-ca-file": authority.read_text(),
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-Remote-User"]',
            "requestheader-uid-headers": '["X-Remote-Uid"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    front, other = Authority.create(folder, "front"), Authority.create(folder, "other")
    front.issue("front-client", "front-proxy-client")
    front.issue("impostor", "somebody")
    other.issue("stranger", "front-proxy-client")
    return folder


@pytest.fixture
async def api(folder: Path) -> AsyncIterator[Api]:
    async with serving(folder, Cluster()) as served:
        yield served


@asynccontextmanager
async def serving(folder: Path, cluster: Cluster) -> AsyncIterator[Api]:
    codes: list[int] = []
    server = MetricsApi(cluster, cluster, Reviews(cluster.send, lambda: cluster.now), codes.append)
    port = await server.listen("127.0.0.1", 0)
    held, front = renewed(None, HOST, datetime.now(UTC)), front_proxy(folder / "front.crt")
    await server.exchange(held, front)
    yield Api(f"https://127.0.0.1:{port}", cluster, server, held, front, folder, codes)
    await server.close()


def pod(cluster: Cluster, name: str, load: Load | None = None, **labels: str) -> None:
    cluster.pods[name] = {"metadata": {"namespace": "team", "name": name, "labels": labels}}
    if load:
        cluster.loads[name] = load


class TestMetrics:
    async def test_all_pods_of_a_selector_are_told_each_with_its_time(self, api: Api) -> None:
        pod(api.cluster, "a", Load(3, 4, 8, 10), app="ernie")
        pod(api.cluster, "b", Load(0, 0, 8, 10), app="ernie")
        pod(api.cluster, "c", Load(9, 9, 8, 10), app="other")
        pod(api.cluster, "loading", app="ernie")
        path = f"{PODS}/%2A/wenxin_queue_depth?labelSelector=app%3Dernie"
        code, body = await api.get(path, headers=ON_BEHALF)
        assert (code, body["kind"], body["apiVersion"]) == (200, "MetricValueList", "custom.metrics.k8s.io/v1beta2")
        assert {one["describedObject"]["name"]: one["value"] for one in body["items"]} == {"a": "3", "b": "0"}
        taken = datetime.fromisoformat(body["items"][0]["timestamp"])
        assert 7 <= (datetime.now(UTC) - taken).total_seconds() < 60
        assert body["items"][0]["metric"] == {"name": "wenxin_queue_depth"}
        assert body["items"][0]["describedObject"] == {
            "kind": "Pod", "namespace": "team", "name": "a", "apiVersion": "v1",
        }  # fmt: skip

    async def test_running_requests_are_the_other_metric_and_the_older_version_names_it_otherwise(
        self, api: Api
    ) -> None:
        pod(api.cluster, "a", Load(3, 4, 8, 10))
        code, body = await api.get(f"{GROUP}/v1beta1/namespaces/team/pods/a/wenxin_requests_running", headers=ON_BEHALF)
        assert (code, body["items"][0]["value"]) == (200, "4")
        assert body["items"][0]["metricName"] == "wenxin_requests_running"

    async def test_where_nobody_answered_the_list_is_empty_and_never_zero(self, api: Api) -> None:
        pod(api.cluster, "loading")
        assert (await api.get(f"{PODS}/*/wenxin_queue_depth", headers=ON_BEHALF))[1]["items"] == []

    @pytest.mark.parametrize(
        ("path", "code", "reason"),
        [
            (f"{PODS}/loading/wenxin_queue_depth", 404, "NotFound"),
            (f"{PODS}/none/wenxin_queue_depth", 404, "NotFound"),
            (f"{PODS}/*/cpu", 404, "NotFound"),
            (f"{GROUP}/v1beta2/namespaces/team/services/a/wenxin_queue_depth", 404, "NotFound"),
            (f"{PODS}/*/wenxin_queue_depth?labelSelector==", 400, "BadRequest"),
            ("/apis/other.io", 404, "NotFound"),
            ("/openapi/v2", 404, "NotFound"),
        ],
    )
    async def test_an_error_is_worded_as_the_api_server_words_its_own(
        self, api: Api, path: str, code: int, reason: str
    ) -> None:
        pod(api.cluster, "loading")
        status, body = await api.get(path, headers=ON_BEHALF)
        assert (status, body["kind"], body["code"], body["reason"]) == (code, "Status", code, reason)
        assert api.codes == [code]

    async def test_no_metric_has_labels_of_its_own(self, api: Api) -> None:
        pod(api.cluster, "a", Load(3, 4, 8, 10))
        path = f"{PODS}/*/wenxin_queue_depth?metricLabelSelector=model%3Dx"
        assert (await api.get(path, headers=ON_BEHALF))[1]["items"] == []

    async def test_metrics_can_only_be_read(self, api: Api) -> None:
        code, body = await api.get(f"{PODS}/a/wenxin_queue_depth", headers=ON_BEHALF, method="DELETE")
        assert (code, body["reason"]) == (405, "MethodNotAllowed")


async def test_discovery_leads_to_both_metrics(api: Api) -> None:
    groups = (await api.get("/apis", headers=ON_BEHALF))[1]
    assert [one["name"] for one in groups["groups"]] == ["custom.metrics.k8s.io"]
    group = (await api.get(GROUP, headers=ON_BEHALF))[1]
    assert group["preferredVersion"]["version"] == "v1beta2"
    for version in ("v1beta1", "v1beta2"):
        found = (await api.get(f"{GROUP}/{version}", headers=ON_BEHALF))[1]
        assert found["groupVersion"] == f"custom.metrics.k8s.io/{version}"
        assert [one["name"] for one in found["resources"]] == [
            "pods/wenxin_queue_depth", "pods/wenxin_requests_running",
        ]  # fmt: skip


class TestWhoAsks:
    async def test_the_api_server_asks_on_somebodys_behalf(self, api: Api) -> None:
        headers = {"X-Remote-User": "ann", "X-Remote-Uid": "7", "X-Remote-Group": "team", "X-Remote-Extra-A%2Fb": "x"}
        code, _ = await api.get(f"{PODS}/*/wenxin_queue_depth", headers=headers)
        assert code == 200
        (review,) = api.cluster.reviews
        assert review["spec"] == {
            "user": "ann",
            "uid": "7",
            "groups": ["team", "system:authenticated"],
            "extra": {"a/b": ["x"]},
            "resourceAttributes": {
                "verb": "get",
                "group": "custom.metrics.k8s.io",
                "version": "v1beta2",
                "namespace": "team",
                "resource": "pods",
                "name": "*",
                "subresource": "wenxin_queue_depth",
            },
        }

    @pytest.mark.parametrize(
        ("user", "given", "groups"),
        [
            ("system:kube-aggregator", [], ["system:authenticated"]),
            ("ann", ["system:authenticated"], ["system:authenticated"]),
            ("system:anonymous", ["system:unauthenticated"], ["system:unauthenticated"]),
        ],
    )
    async def test_whoever_is_known_is_authenticated(
        self, api: Api, user: str, given: list[str], groups: list[str]
    ) -> None:
        headers = [("X-Remote-User", user), *(("X-Remote-Group", one) for one in given)]
        await api.get(GROUP, headers=headers)
        assert api.cluster.reviews[0]["spec"]["groups"] == groups

    @pytest.mark.parametrize("client", [None, "impostor"])
    async def test_nobody_else_is_believed_whom_he_asks_for(self, api: Api, client: str | None) -> None:
        code, body = await api.get(GROUP, client=client, headers=ON_BEHALF)
        assert (code, body["reason"]) == (401, "Unauthorized")

    async def test_a_certificate_of_another_authority_is_not_even_heard(self, api: Api) -> None:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await api.get(GROUP, client="stranger", headers=ON_BEHALF)

    async def test_a_token_is_reviewed_and_its_owner_may_what_he_may(self, api: Api) -> None:
        pod(api.cluster, "a", Load(1, 1, 1, 1))
        code, _ = await api.get(GROUP, client=None, headers={"Authorization": "Bearer good"})
        assert code == 200
        token, access = api.cluster.reviews
        assert token["spec"] == {"token": "good"}
        assert (access["spec"]["user"], access["spec"]["extra"]) == ("ann", {"scope": ["x"]})
        assert access["spec"]["nonResourceAttributes"] == {"path": GROUP, "verb": "get"}

    @pytest.mark.parametrize("header", ["Bearer bad", "Bearer ", "Basic good", ""])
    async def test_without_a_good_token_nothing_is_told(self, api: Api, header: str) -> None:
        assert (await api.get(GROUP, client=None, headers={"Authorization": header}))[0] == 401

    async def test_who_may_not_is_refused(self, api: Api) -> None:
        api.cluster.allowed = False
        code, body = await api.get(f"{PODS}/*/wenxin_queue_depth", headers={"X-Remote-User": "ann"})
        assert (code, body["reason"]) == (403, "Forbidden")
        assert "ann may not get" in body["message"]

    async def test_a_verdict_counts_for_seconds_only(self, api: Api) -> None:
        headers = {"Authorization": "Bearer good"}
        for _ in range(3):
            await api.get(GROUP, client=None, headers=headers)
        assert len(api.cluster.reviews) == 2
        api.cluster.now, api.cluster.allowed = callers.KEPT_SECONDS, False
        assert (await api.get(GROUP, client=None, headers=headers))[0] == 403

    async def test_what_is_remembered_of_callers_is_bounded(self, api: Api) -> None:
        reviews = Reviews(api.cluster.send, lambda: 0.0)
        for number in range(callers.KEPT_AT_MOST + 10):
            assert await reviews.owner(f"bad {number}") is None
        assert len(reviews._callers) <= callers.KEPT_AT_MOST

    async def test_while_the_api_server_is_away_nobody_is_believed(self, api: Api) -> None:
        api.cluster.away = True
        code, body = await api.get(GROUP, headers={"X-Remote-User": "ann"})
        assert (code, body["reason"]) == (503, "ServiceUnavailable")

    async def test_anybody_may_ask_whether_it_lives(self, api: Api) -> None:
        assert await api.get("/readyz", client=None) == (200, "ok")

    def test_an_api_server_that_aggregates_nothing_is_told_apart(self) -> None:
        with pytest.raises(ValueError, match="aggregates no APIs"):
            FrontProxy.from_data({})


async def test_a_certificate_is_exchanged_under_way(api: Api) -> None:
    """What was asked before goes on, what comes meanwhile waits, what comes after meets the new one."""
    other = renewed(None, HOST, datetime.now(UTC))
    asking = [asyncio.create_task(api.get("/readyz", trust=api.held.bundle + other.bundle)) for _ in range(20)]
    await api.server.exchange(other, api.front)
    assert {code for code, _ in await asyncio.gather(*asking)} == {200}
    assert (await api.get("/readyz", trust=other.bundle))[0] == 200
    with pytest.raises(aiohttp.ClientError):
        await api.get("/readyz", trust=api.held.bundle)


async def test_another_front_proxy_is_trusted_alone(api: Api, folder: Path) -> None:
    await api.server.exchange(api.held, front_proxy(folder / "other.crt"))
    assert (await api.get(GROUP, client="stranger", headers=ON_BEHALF))[0] == 200
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await api.get(GROUP, client="front-client", headers=ON_BEHALF)
