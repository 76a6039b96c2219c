"""Every change wakes the resources that it concerns, once, and lists find what watches missed."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wenxin_operator.cluster import Listing
from wenxin_operator.errors import ApiError, Forbidden, NotFound, Unreachable
from wenxin_operator.feed import Feed
from wenxin_operator.names import (
    LABEL_DEPLOYMENT,
    LEADER_WORKER_SET,
    OWNER_LABEL,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    RESOURCES,
    SERVICE,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Key,
    Raw,
)
from wenxin_operator.resync import Resync
from wenxin_operator.store import Store

ERNIE = Key(WENXIN_DEPLOYMENT, "here", "ernie")
MODEL = Key(WENXIN_MODEL, "here", "ernie")


class Keys:
    """Writes down which keys were asked for."""

    def __init__(self) -> None:
        self.now: list[Key] = []
        self.later: list[tuple[Key, float]] = []

    def add(self, key: Key) -> None:
        self.now.append(key)

    def add_after(self, key: Key, seconds: float) -> None:
        self.later.append((key, seconds))

    def take(self) -> list[Key]:
        taken, self.now = self.now, []
        return sorted(taken)


def thing(
    name: str, version: int, *, generation: int = 1, labels: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    metadata = {"namespace": "here", "name": name, "resourceVersion": str(version), "generation": generation}
    return {"metadata": {**metadata, "labels": labels or {}}, **more}


def service(version: int, of: str = "ernie") -> dict[str, Any]:
    return thing("ernie", version, labels={LABEL_DEPLOYMENT: of})


def deployment(version: int, **more: Any) -> dict[str, Any]:
    return thing("ernie", version, spec={"model": {"source": "pvc://weights/ernie"}}, **more)


def model(version: int, **more: Any) -> dict[str, Any]:
    return thing("ernie", version, spec={"source": "pvc://weights/ernie"}, **more)


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def store() -> Store:
    return Store(tuple(OWNER_LABEL.values()))


@pytest.fixture
def feed(store: Store, keys: Keys) -> Feed:
    return Feed(store, keys, chance=lambda: 0.5)


def test_a_child_wakes_its_owner_when_it_appears_changes_and_goes(feed: Feed, keys: Keys) -> None:
    for change in (
        lambda: feed.seen(SERVICE, service(1)),
        lambda: feed.seen(SERVICE, service(2)),
        lambda: feed.gone(SERVICE, service(3)),
    ):
        change()
        assert keys.take() == [ERNIE]


def test_what_is_known_already_wakes_nobody(feed: Feed, keys: Keys) -> None:
    feed.seen(SERVICE, service(2))
    keys.take()
    feed.seen(SERVICE, service(2))
    feed.seen(SERVICE, service(1))
    feed.gone(SERVICE, service(1))
    assert keys.take() == []


def test_a_child_that_changes_hands_wakes_both_owners(feed: Feed, keys: Keys) -> None:
    feed.seen(SERVICE, service(1))
    keys.take()
    feed.seen(SERVICE, service(2, of="other"))
    assert keys.take() == [ERNIE, Key(WENXIN_DEPLOYMENT, "here", "other")]


def test_a_claim_wakes_the_models_on_it_and_a_model_the_deployments_that_serve_it(feed: Feed, keys: Keys) -> None:
    feed.seen(WENXIN_DEPLOYMENT, deployment(1))
    feed.seen(WENXIN_MODEL, model(2))
    assert keys.take() == [ERNIE, ERNIE, MODEL]
    feed.seen(PERSISTENT_VOLUME_CLAIM, thing("weights", 3))
    assert keys.take() == [MODEL]


def test_our_own_status_wakes_no_pass_over_itself_but_over_those_who_wait_for_it(feed: Feed, keys: Keys) -> None:
    feed.seen(WENXIN_DEPLOYMENT, deployment(1))
    feed.seen(WENXIN_MODEL, model(2))
    keys.take()
    feed.written(WENXIN_MODEL, model(3, status={"digest": "sha256:1"}))
    assert keys.take() == [ERNIE]
    feed.seen(WENXIN_MODEL, model(3, status={"digest": "sha256:1"}))
    assert keys.take() == [], "the watch tells no news"


def test_a_resource_that_we_made_or_whose_spec_we_changed_gets_a_pass(feed: Feed, keys: Keys) -> None:
    feed.written(WENXIN_MODEL, model(1))
    assert keys.take() == [MODEL]
    feed.written(WENXIN_MODEL, model(2, generation=2))
    assert keys.take() == [MODEL]


def test_a_child_that_we_wrote_is_known_before_the_watch_tells(feed: Feed, keys: Keys, store: Store) -> None:
    feed.written(SERVICE, service(5))
    assert store.get(SERVICE, "here", "ernie")
    assert keys.take() == [ERNIE]
    feed.seen(SERVICE, service(5))
    assert keys.take() == []


def test_a_list_wakes_only_those_of_whom_it_brings_news(feed: Feed, keys: Keys) -> None:
    feed.seen(SERVICE, service(1))
    feed.seen(SERVICE, thing("gone", 2, labels={LABEL_DEPLOYMENT: "gone"}))
    keys.take()
    feed.listed(SERVICE, None, [service(1), thing("new", 3, labels={LABEL_DEPLOYMENT: "new"})], "9")
    assert [key.name for key in keys.take()] == ["gone", "new"]


def test_looking_at_everything_is_spread_over_time(feed: Feed, keys: Keys) -> None:
    feed.seen(WENXIN_DEPLOYMENT, deployment(1))
    feed.seen(WENXIN_MODEL, model(2))
    feed.look_at_everything(within=30)
    assert sorted(keys.later) == [(ERNIE, 15), (MODEL, 15)]


class Lister:
    """Lists what it is given; each kind can be made to fail."""

    def __init__(self) -> None:
        self.errors: dict[str, ApiError] = {}
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, str | None]] = []

    async def list(self, kind: str, namespace: str | None, keep: Callable[[Raw], Raw]) -> Listing:
        self.asked.append((kind, namespace))
        if kind in self.errors:
            raise self.errors[kind]
        return Listing([keep(thing) for thing in self.objects.get(kind, [])], str(100 + len(self.asked)))


class Clock:
    seconds = 50.0

    def __call__(self) -> float:
        return self.seconds


def resync(lister: Lister, feed: Feed, clock: Clock | None = None, *, namespaces: tuple[str, ...] = ()) -> Resync:
    return Resync(lister, feed, namespaces=namespaces, interval=60, chance=lambda: 0.5, clock=clock or Clock())


async def test_every_kind_is_listed_in_every_namespace(feed: Feed) -> None:
    lister = Lister()
    await resync(lister, feed, namespaces=("a", "b"))._round()
    assert sorted(lister.asked, key=str) == sorted(((kind, ns) for kind in RESOURCES for ns in "ab"), key=str)


async def test_the_store_counts_as_filled_once_every_kind_was_listed(
    feed: Feed, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    lister = Lister()
    lister.errors = {WENXIN_MODEL: NotFound("no such kind"), SERVICE: Forbidden("no")}
    lister.objects[WENXIN_DEPLOYMENT] = [deployment(1)]
    syncing = resync(lister, feed)
    await syncing._round()
    assert not syncing.filled.is_set()
    assert "is the CustomResourceDefinition of WenxinModel installed?" in caplog.text
    assert "does the chart's RBAC cover this namespace?" in caplog.text
    del lister.errors[WENXIN_MODEL]
    await syncing._round()
    assert not syncing.filled.is_set()
    lister.errors.clear()
    await syncing._round()
    assert syncing.filled.is_set()
    assert keys.take() == [ERNIE]


async def test_the_age_is_that_of_the_kind_that_was_last_seen_longest_ago(feed: Feed) -> None:
    lister, clock = Lister(), Clock()
    syncing = resync(lister, feed, clock)
    clock.seconds = 60
    assert syncing.age == 10, "counted from the start until a list succeeds"
    await syncing._round()
    assert syncing.age == 0
    clock.seconds = 100
    lister.errors[SERVICE] = Unreachable("away")
    await syncing._round()
    assert syncing.age == 40
    lister.errors.clear()
    await syncing._round()
    assert syncing.age == 0


async def test_a_kind_whose_watch_begins_anew_is_listed_at_once_and_no_other(feed: Feed) -> None:
    lister = Lister()
    syncing = resync(lister, feed, namespaces=("a", "b"))
    running = asyncio.create_task(syncing.run())
    await syncing.filled.wait()
    await asyncio.sleep(0)
    lister.asked.clear()
    syncing.relist("services")
    syncing.relist("pods")
    await until(lambda: len(lister.asked) == 4)
    await asyncio.sleep(0.05)
    assert sorted(lister.asked, key=str) == [(POD, "a"), (POD, "b"), (SERVICE, "a"), (SERVICE, "b")]
    running.cancel()


def test_a_list_takes_no_memory_for_what_is_stored_already(feed: Feed, store: Store) -> None:
    feed.seen(SERVICE, service(1))
    assert feed.kept(SERVICE, service(1)) is store.get(SERVICE, "here", "ernie")
    newer = service(2)
    newer["metadata"]["managedFields"] = [{}]
    assert "managedFields" not in feed.kept(SERVICE, newer)["metadata"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - watches a plain list
            await asyncio.sleep(0.005)


async def test_a_store_that_was_never_filled_is_tried_again_soon(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wenxin_operator.resync.FIRST_TRY_SECONDS", 0.01)
    lister = Lister()
    lister.errors = {SERVICE: Unreachable("away")}
    syncing = resync(lister, feed)
    running = asyncio.create_task(syncing.run())
    await until(lambda: len(lister.asked) >= 2 * len(RESOURCES))
    lister.errors.clear()
    await until(syncing.filled.is_set)
    running.cancel()


async def test_rounds_come_at_the_interval(feed: Feed) -> None:
    lister = Lister()
    syncing = Resync(lister, feed, namespaces=(), interval=0.02, chance=lambda: 0.0)
    running = asyncio.create_task(syncing.run())
    await until(lambda: len(lister.asked) >= 3 * len(RESOURCES))
    running.cancel()


class TestOptionalKind:
    async def test_one_that_the_cluster_lacks_is_no_trouble(
        self, feed: Feed, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        lister, clock = Lister(), Clock()
        lister.errors = {LEADER_WORKER_SET: NotFound("no such kind")}
        syncing = resync(lister, feed, clock)
        clock.seconds = 60
        await syncing._round()
        assert syncing.filled.is_set()
        assert (syncing.age, store.serves(LEADER_WORKER_SET), store.serves(SERVICE)) == (0, False, True)
        assert caplog.text == ""

    async def test_one_that_comes_later_is_known_after_the_next_round(self, feed: Feed, store: Store) -> None:
        lister = Lister()
        lister.errors = {LEADER_WORKER_SET: NotFound("no such kind")}
        syncing = resync(lister, feed)
        await syncing._round()
        lister.errors.clear()
        await syncing._round()
        assert store.serves(LEADER_WORKER_SET)

    async def test_one_that_was_there_and_can_not_be_listed_is_an_error(self, feed: Feed, store: Store) -> None:
        lister, clock = Lister(), Clock()
        syncing = resync(lister, feed, clock)
        await syncing._round()
        clock.seconds = 90
        lister.errors = {LEADER_WORKER_SET: NotFound("no such kind")}
        await syncing._round()
        assert (syncing.age, store.serves(LEADER_WORKER_SET)) == (40, True)

    async def test_one_that_may_not_be_listed_is_an_error(self, feed: Feed) -> None:
        lister = Lister()
        lister.errors = {LEADER_WORKER_SET: Forbidden("no")}
        syncing = resync(lister, feed)
        await syncing._round()
        assert not syncing.filled.is_set()
