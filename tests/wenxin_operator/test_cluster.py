"""What the API client promises: one request does one thing, errors say what to do, a busy server is waited for."""

import datetime as dt
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator.cluster import Cluster, Retries
from wenxin_operator.connection import Endpoint
from wenxin_operator.errors import ApiError, Conflict, Forbidden, Gone, Invalid, NotFound, Unreachable
from wenxin_operator.event_recorder import EventRecorder, event_name
from wenxin_operator.events import Event
from wenxin_operator.feed import Feed
from wenxin_operator.names import CONFIG_MAP, JOB, POD, WENXIN_DEPLOYMENT, Key
from wenxin_operator.store import Store
from wenxin_operator.work_queue import WorkQueue

QUICK = Retries(attempts=3, first_wait=0.001, longest_wait=0.002)
OURS = {"app.kubernetes.io/managed-by": "wenxin-operator"}


def config_map(name: str = "it", **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "here", "name": name, "labels": OURS}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **fields}


def resource(name: str = "ernie") -> dict[str, Any]:
    metadata = {"namespace": "here", "name": name}
    return {"apiVersion": "serving.wenxin.io/v1alpha1", "kind": "WenxinDeployment", "metadata": metadata, "spec": {}}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with Endpoint(server="").session(timeout=5) as opened:
        yield opened


@pytest.fixture
def cluster(api: FakeApi, session: aiohttp.ClientSession) -> Cluster:
    return Cluster(session, api.url, identity="me", retries=QUICK)


async def test_apply_makes_the_object_and_then_changes_only_what_differs(api: FakeApi, cluster: Cluster) -> None:
    made = await cluster.apply(config_map(data={"a": "1", "b": "2"}))
    changed = await cluster.apply(config_map(data={"a": "1"}))
    same = await cluster.apply(config_map(data={"a": "1"}))
    assert made["data"] == {"a": "1", "b": "2"}
    assert changed["data"] == {"a": "1"}
    assert same["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
    assert api.requests[0].content_type == "application/apply-patch+yaml"
    assert api.requests[0].query == "fieldManager=wenxin-operator&force=true&fieldValidation=Strict"


async def test_overwriting_replaces_lists_whole(api: FakeApi, cluster: Cluster) -> None:
    live = await api.put(config_map(data={"a": "1"}, list=[{"port": 1}, {"port": 2}]))
    written = await cluster.overwrite(config_map(list=[{"port": 3}]))
    assert written["list"] == [{"port": 3}]
    assert written["data"] == live["data"]
    assert api.requests[-1].content_type == "application/merge-patch+json"


async def test_an_annotation_is_added_to_this_very_object(api: FakeApi, cluster: Cluster) -> None:
    metadata = {"name": "it", "namespace": "here", "annotations": {"theirs": "1"}}
    live = await api.put({"apiVersion": "v1", "kind": CONFIG_MAP, "metadata": metadata})
    await cluster.annotate(live, {"ours": "2"})
    (after,) = api.of("configmaps")
    assert after["metadata"]["annotations"] == {"theirs": "1", "ours": "2"}
    with pytest.raises(Conflict):
        await cluster.annotate({**live, "metadata": {**live["metadata"], "uid": "another"}}, {"ours": "3"})


async def test_every_write_is_told_to_the_store(api: FakeApi, session: aiohttp.ClientSession) -> None:
    told: list[tuple[str, str]] = []
    cluster = Cluster(
        session, api.url, identity="me", written=lambda kind, thing: told.append((kind, thing["metadata"]["name"]))
    )
    await cluster.apply(config_map())
    live = await api.put(resource())
    await cluster.apply_status(live, {"replicas": 1})
    assert told == [(CONFIG_MAP, "it"), (WENXIN_DEPLOYMENT, "ernie")]


async def test_what_was_deleted_is_told_to_the_store_before_the_watch_does(
    session: aiohttp.ClientSession, api: FakeApi
) -> None:
    store = Store()
    feed = Feed(store, WorkQueue(initial=1, maximum=1), chance=lambda: 0.0)
    cluster = Cluster(session, api.url, identity="me", written=feed.written, deleted=feed.gone)
    live = await cluster.apply(config_map())
    assert store.get(CONFIG_MAP, "here", "it")
    await cluster.delete(live)
    assert store.get(CONFIG_MAP, "here", "it") is None
    await cluster.apply(config_map(data={"a": "1"}))
    await cluster.delete(live)
    assert store.get(CONFIG_MAP, "here", "it"), "that is another one"


async def test_a_status_goes_to_the_object_it_was_made_for_and_to_no_later_one(api: FakeApi, cluster: Cluster) -> None:
    live = await api.put(resource())
    assert (await cluster.apply_status(live, {"replicas": 2, "gpus": 4}))["status"] == {"replicas": 2, "gpus": 4}
    assert (await cluster.apply_status(live, {"replicas": 3}))["status"] == {"replicas": 3}
    await api.remove(WENXIN_DEPLOYMENT, "here", "ernie")
    with pytest.raises(NotFound):
        await cluster.apply_status(live, {"replicas": 2})
    await api.put(resource())
    with pytest.raises(Conflict, match="uid"):
        await cluster.apply_status(live, {"replicas": 2})


async def test_delete_removes_that_very_object_and_is_content_when_it_is_gone(api: FakeApi, cluster: Cluster) -> None:
    old = await cluster.apply(config_map())
    await cluster.delete(old)
    await cluster.delete(old)
    new = await cluster.apply(config_map())
    await cluster.delete(old)
    assert api.get(CONFIG_MAP, "here", "it") == new


async def test_reading_what_is_not_there_is_none(cluster: Cluster) -> None:
    assert await cluster.read(CONFIG_MAP, "here", "it") is None
    await cluster.apply(config_map(data={"a": "1"}))
    found = await cluster.read(CONFIG_MAP, "here", "it")
    assert found
    assert found["data"] == {"a": "1"}


async def test_a_list_holds_all_pages_and_its_items_say_what_they_are(api: FakeApi, cluster: Cluster) -> None:
    for number in range(7):
        await api.put(config_map(f"c{number}"))
    api.page = 3
    listing = await cluster.list(CONFIG_MAP, None)
    assert [item["metadata"]["name"] for item in listing.items] == [f"c{number}" for number in range(7)]
    assert {(item["apiVersion"], item["kind"]) for item in listing.items} == {("v1", "ConfigMap")}
    assert listing.version == str(api.version)
    assert [each.verb for each in api.requests] == ["list"] * 3


async def test_children_are_listed_by_our_label_and_resources_all_of_them(api: FakeApi, cluster: Cluster) -> None:
    await api.put(config_map())
    foreign = config_map("foreign")
    foreign["metadata"]["labels"] = {}
    await api.put(foreign)
    await api.put(resource())
    assert len((await cluster.list(CONFIG_MAP, None)).items) == 1
    assert len((await cluster.list(WENXIN_DEPLOYMENT, None)).items) == 1
    assert len((await cluster.list(CONFIG_MAP, "elsewhere")).items) == 0


async def test_pages_that_expire_are_listed_from_the_start(api: FakeApi, cluster: Cluster) -> None:
    for number in range(4):
        await api.put(config_map(f"c{number}"))
    api.page = 3
    remaining = 1

    def forgetful(request: Any) -> bool:
        nonlocal remaining
        if "continue" in request.query and remaining:
            remaining -= 1
            api.version += 1
            api.compact()
        return True

    api.allows = forgetful
    assert len((await cluster.list(CONFIG_MAP, None)).items) == 4
    assert len(api.requests) == 4


async def test_a_list_that_stays_expired_is_an_error(api: FakeApi, cluster: Cluster) -> None:
    api.fail(1, 410)
    with pytest.raises(Gone):
        await cluster.list(CONFIG_MAP, None)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Invalid),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, Invalid),
        (418, ApiError),
    ],
)
async def test_each_refusal_is_an_error_of_its_own_and_is_not_tried_again(
    api: FakeApi, cluster: Cluster, status: int, error: type[ApiError]
) -> None:
    api.fail(1, status)
    with pytest.raises(error, match="told to fail") as raised:
        await cluster.apply(config_map())
    assert type(raised.value) is error
    assert raised.value.status == status
    assert raised.value.reason == "Told"
    assert "PATCH /api/v1/namespaces/here/configmaps/it" in str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_busy_server_is_asked_again_until_it_answers(api: FakeApi, cluster: Cluster, status: int) -> None:
    api.fail(2, status, Retry_After="0")
    assert await cluster.apply(config_map())


async def test_a_server_that_stays_busy_is_unreachable(api: FakeApi, cluster: Cluster) -> None:
    api.fail(3, 503)
    with pytest.raises(Unreachable) as raised:
        await cluster.apply(config_map())
    assert raised.value.status == 503


async def test_no_answer_at_all_is_unreachable(api: FakeApi, cluster: Cluster) -> None:
    api.down = True
    with pytest.raises(Unreachable) as raised:
        await cluster.read(CONFIG_MAP, "here", "it")
    assert raised.value.status == 0


async def test_an_answer_that_takes_too_long_is_unreachable(api: FakeApi) -> None:
    api.silent = True
    async with Endpoint(server="").session(timeout=0.05) as session:
        cluster = Cluster(session, api.url, identity="me", retries=Retries(attempts=1))
        with pytest.raises(Unreachable, match="TimeoutError"):
            await cluster.read(CONFIG_MAP, "here", "it")


def test_waits_grow_and_honour_the_servers_wish_up_to_a_limit() -> None:
    retries = Retries(first_wait=1, longest_wait=8)
    assert 0.5 <= retries.wait(0, None) <= 1
    assert 2 <= retries.wait(2, None) <= 4
    assert 4 <= retries.wait(30, None) <= 8
    assert retries.wait(0, "5") == 5
    assert retries.wait(0, "3600") == 8
    assert retries.wait(0, "Wed, 21 Oct 2026 07:28:00 GMT") <= 1


async def test_causes_name_the_fields_of_a_refused_object(session: aiohttp.ClientSession) -> None:
    from aiohttp import web

    async def refuse(_: web.Request) -> web.Response:
        causes = [{"reason": "FieldValueInvalid", "field": "spec.replicas", "message": "must not be negative"}]
        body = {"message": "it is invalid", "reason": "Invalid", "details": {"causes": causes}}
        return web.json_response(body, status=422)

    async def page(_: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>Bad Gateway</html>")

    application = web.Application()
    application.router.add_patch("/{path:.*}", refuse)
    application.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cluster = Cluster(session, f"http://127.0.0.1:{runner.addresses[0][1]}", identity="me", retries=QUICK)
    with pytest.raises(Invalid) as raised:
        await cluster.apply(config_map())
    assert [(cause.field, cause.message) for cause in raised.value.causes] == [
        ("spec.replicas", "must not be negative")
    ]
    with pytest.raises(Unreachable, match="Bad Gateway"):
        await cluster.read(CONFIG_MAP, "here", "it")
    await runner.cleanup()


async def test_a_lease_is_created_read_and_replaced_only_as_it_was_read(cluster: Cluster) -> None:
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"namespace": "here", "name": "it"}}
    with pytest.raises(NotFound):
        await cluster.read_lease("here", "it")
    made = await cluster.create_lease({**lease, "spec": {"holderIdentity": "a"}})
    with pytest.raises(Conflict):
        await cluster.create_lease(lease)
    await cluster.replace_lease({**made, "spec": {"holderIdentity": "b"}})
    with pytest.raises(Conflict):
        await cluster.replace_lease({**made, "spec": {"holderIdentity": "c"}})
    assert (await cluster.read_lease("here", "it"))["spec"]["holderIdentity"] == "b"


async def test_requests_about_the_lease_are_made_once_for_the_elector_has_its_own_patience(
    api: FakeApi, cluster: Cluster
) -> None:
    api.fail(1, 503)
    with pytest.raises(Unreachable):
        await cluster.read_lease("here", "it")


def event(note: str = "The claim weights is missing.", name: str = "ernie") -> Event:
    return Event(Key(WENXIN_DEPLOYMENT, "here", name), "uid-1", "Warning", "ClaimMissing", note)


async def test_an_event_says_what_happened_to_whom(api: FakeApi, cluster: Cluster) -> None:
    await cluster.emit(event())
    (posted,) = api.of("events")
    assert posted["regarding"]["kind"] == "WenxinDeployment"
    assert posted["regarding"]["uid"] == "uid-1"
    assert posted["note"] == "The claim weights is missing."
    assert posted["reportingController"] == "serving.wenxin.io/wenxin-operator"
    assert posted["reportingInstance"] == "me"
    assert posted["action"]
    dt.datetime.fromisoformat(posted["eventTime"])


async def test_a_repeated_event_becomes_a_series(api: FakeApi, cluster: Cluster) -> None:
    for _ in range(3):
        await cluster.emit(event())
    await cluster.emit(event("Something else."))
    first = next(each for each in api.of("events") if each["note"].startswith("The claim"))
    assert len(api.of("events")) == 2
    assert first["series"]["count"] == 3


async def test_a_restarted_operator_continues_the_series(api: FakeApi, session: aiohttp.ClientSession) -> None:
    for _ in range(2):
        await Cluster(session, api.url, identity="me").emit(event())
    assert [each["series"]["count"] for each in api.of("events")] == [2]


async def test_an_event_that_was_forgotten_is_posted_anew(api: FakeApi, cluster: Cluster) -> None:
    await cluster.emit(event())
    api.objects.clear()
    await cluster.emit(event())
    assert len(api.of("events")) == 1


async def test_an_event_that_cannot_be_posted_is_only_logged(
    api: FakeApi, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    api.fail(1, 403)
    await cluster.emit(event())
    assert "ClaimMissing not posted" in caplog.text


async def test_a_note_is_cut_to_what_the_api_takes_and_names_stay_short(api: FakeApi, cluster: Cluster) -> None:
    await cluster.emit(event("文" * 1000, name="n" * 253))
    (posted,) = api.of("events")
    assert len(posted["note"].encode()) <= 1024
    assert len(event_name(event(name="n" * 253))) <= 253


async def test_remembered_series_do_not_grow_without_end() -> None:
    async def send(_method: str, _path: str, body: dict[str, Any]) -> None:
        json.dumps(body)

    recorder = EventRecorder(send, identity="me")
    for number in range(1500):
        await recorder.emit(event(f"note {number}"))
    assert len(recorder._counts) == 1024


async def test_kinds_are_addressed_where_the_api_has_them(api: FakeApi, cluster: Cluster) -> None:
    for kind in (POD, JOB, WENXIN_DEPLOYMENT):
        await cluster.read(kind, "here", "it")
    assert [(each.group, each.resource, each.namespace, each.name) for each in api.requests] == [
        ("", "pods", "here", "it"),
        ("batch", "jobs", "here", "it"),
        ("serving.wenxin.io", "wenxindeployments", "here", "it"),
    ]
