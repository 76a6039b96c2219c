"""kopf's part, with the real kopf: it tells what happens, survives what the API server does, and writes nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import pytest

from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator.connection import Endpoint, KopfLists
from wenxin_operator.handlers import Patience, Watch
from wenxin_operator.names import RESOURCES, SERVICE, WENXIN_DEPLOYMENT, Raw, selector_of

OURS = {"app.kubernetes.io/managed-by": "wenxin-operator"}


def service(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"namespace": "here", "name": name, "labels": labels or OURS}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}}


def deployment(name: str = "ernie", **spec: Any) -> dict[str, Any]:
    api_version = RESOURCES[WENXIN_DEPLOYMENT].api_version
    return {
        "apiVersion": api_version,
        "kind": WENXIN_DEPLOYMENT,
        "metadata": {"namespace": "here", "name": name},
        "spec": spec,
    }


class Seen:
    """A feed that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.listed: list[str] = []
        self.broken = False

    def seen(self, kind: str, thing: Raw) -> None:
        if self.broken:
            raise RuntimeError("a defect")
        self.told.append(("seen", kind, thing["metadata"]["name"]))

    def gone(self, kind: str, thing: Raw) -> None:
        self.told.append(("gone", kind, thing["metadata"]["name"]))


@asynccontextmanager
async def watching(
    api: FakeApi, feed: Any, *, namespaces: tuple[str, ...] = (), silence: float = 70
) -> AsyncIterator[None]:
    """kopf, watching until the block ends; it must end then."""
    lists = KopfLists({of.plural: selector_of(kind) for kind, of in RESOURCES.items()}, feed.listed.append)
    endpoint = Endpoint(server=api.url)
    watch = Watch(
        feed,
        server=api.url,
        session=lambda: endpoint.session(lists, timeout=5),
        kinds=RESOURCES,
        namespaces=namespaces,
        request_timeout=5,
        silence=silence,
    )
    started = asyncio.Event()
    running = asyncio.create_task(watch.run(started.set))
    await started.wait()
    try:
        await until(lambda: sum(each.verb == "watch" for each in api.requests) >= len(RESOURCES))
        yield
    finally:
        running.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - watches plain attributes
            await asyncio.sleep(0.01)


async def test_what_appears_changes_and_goes_is_told(api: FakeApi) -> None:
    feed = Seen()
    async with watching(api, feed):
        await api.put(service("new"))
        await until(lambda: ("seen", SERVICE, "new") in feed.told)
        await api.put({**service("new"), "spec": {"ports": []}})
        await until(lambda: feed.told.count(("seen", SERVICE, "new")) == 2)
        await api.remove(SERVICE, "here", "new")
        await until(lambda: ("gone", SERVICE, "new") in feed.told)


async def test_objects_of_others_are_never_sent_to_us(api: FakeApi) -> None:
    await api.put(service("foreign", app="theirs"))
    feed = Seen()
    async with watching(api, feed):
        await api.put(service("foreign2", app="theirs"))
        await api.put(service("ours"))
        await until(lambda: ("seen", SERVICE, "ours") in feed.told)
    assert {name for _, _, name in feed.told} == {"ours"}
    reads = [each for each in api.requests if each.verb in ("list", "watch") and each.resource == "services"]
    assert reads
    assert all("managed-by%3Dwenxin-operator" in each.query for each in reads)


async def test_nothing_is_ever_written(api: FakeApi) -> None:
    feed = Seen()
    async with watching(api, feed):
        await api.put(deployment(replicas=1))
        await api.put(deployment(replicas=2))
        await until(lambda: feed.told.count(("seen", WENXIN_DEPLOYMENT, "ernie")) == 2)
        await api.remove(WENXIN_DEPLOYMENT, "here", "ernie")
        await until(lambda: ("gone", WENXIN_DEPLOYMENT, "ernie") in feed.told)
    assert api.writes() == []


async def test_only_the_namespaces_that_are_served_are_watched(api: FakeApi) -> None:
    feed = Seen()
    async with watching(api, feed, namespaces=("here",)):
        await api.put({**deployment("there"), "metadata": {"namespace": "elsewhere", "name": "there"}})
        await api.put(deployment())
        await until(lambda: ("seen", WENXIN_DEPLOYMENT, "ernie") in feed.told)
    assert {name for _, _, name in feed.told} == {"ernie"}
    assert {each.namespace for each in api.requests if each.verb in ("list", "watch")} == {"here"}


async def test_watches_that_break_go_on_where_they_were(api: FakeApi) -> None:
    feed = Seen()
    async with watching(api, feed):
        api.cut_watches()
        await api.put(deployment())
        await until(lambda: ("seen", WENXIN_DEPLOYMENT, "ernie") in feed.told)
    assert feed.listed.count("services") == 1


async def test_an_api_server_that_was_away_is_watched_again(api: FakeApi) -> None:
    feed = Seen()
    async with watching(api, feed):
        api.down = True
        api.cut_watches()
        await asyncio.sleep(0.3)
        api.down = False
        await api.put(deployment())
        await until(lambda: ("seen", WENXIN_DEPLOYMENT, "ernie") in feed.told)


async def test_watches_that_fall_silent_are_begun_anew_where_they_were(api: FakeApi) -> None:
    feed = Seen()
    async with watching(api, feed, silence=1):
        api.freeze_watches()
        await api.put(deployment())
        await until(lambda: ("seen", WENXIN_DEPLOYMENT, "ernie") in feed.told)
    assert feed.listed.count("services") == 1


async def test_each_list_of_kopf_is_told_and_brings_one_object_at_most(api: FakeApi) -> None:
    for number in range(5):
        await api.put(deployment(f"old{number}"))
    feed = Seen()
    async with watching(api, feed):
        assert sorted(feed.listed) == sorted(resource.plural for resource in RESOURCES.values())
        api.version += 1
        api.compact()
        api.cut_watches()
        await until(lambda: feed.listed.count("wenxindeployments") == 2)
        await api.put(deployment("new"))
        await until(lambda: ("seen", WENXIN_DEPLOYMENT, "new") in feed.told)
    assert {name for _, _, name in feed.told} == {"old0", "new"}


async def test_a_defect_in_the_feed_is_logged_and_the_watches_go_on(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Seen()
    async with watching(api, feed):
        feed.broken = True
        await api.put(deployment("first"))
        await until(lambda: "a WenxinDeployment was not taken in" in caplog.text)
        feed.broken = False
        await api.put(deployment("second"))
        await until(lambda: ("seen", WENXIN_DEPLOYMENT, "second") in feed.told)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert {record.name for record in errors} == {"wenxin_operator.handlers"}
    assert api.writes() == [], "kopf would note a retry on the object"


def test_patience_has_no_end_and_stays_within_seconds() -> None:
    waits = list(islice(Patience(), 100))
    assert waits[0] < 1
    assert max(waits) <= 12
