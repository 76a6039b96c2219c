"""Which pods are asked how busy they are, and what is known of them afterwards."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from wenxin_operator.load import Load
from wenxin_operator.load_poller import AT_ONCE, LoadPoller
from wenxin_operator.names import API_VERSION, POD, WENXIN_DEPLOYMENT, Raw
from wenxin_operator.store import Store

LABELS = {"serving.wenxin.io/deployment": "ernie", "app.kubernetes.io/component": "runtime"}
INTERVAL = 10.0
SCALED = {"autoscaling": {"maxReplicas": 3}}


@dataclass
class World:
    """A store, and pods that answer with how many times they were asked."""

    store: Store = field(default_factory=lambda: Store(("serving.wenxin.io/deployment",)))
    asked: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    counted: list[bool] = field(default_factory=list)
    now: float = 1000.0
    at_once: int = 0
    most_at_once: int = 0
    version: int = 0
    chance: float = 0.0

    def __post_init__(self) -> None:
        self.poller = LoadPoller(
            self.store,
            self.ask,
            interval=INTERVAL,
            chance=lambda: self.chance,
            counted=self.counted.append,
            clock=lambda: self.now,
        )

    async def ask(self, pod: Raw) -> Load | None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        name = pod["metadata"]["name"]
        self.asked.append(name)
        return None if name in self.silent else Load(self.asked.count(name), 0, 4, 10)

    def put(self, kind: str, name: str, *, uid: str = "", labels: Any = None, **body: Any) -> Raw:
        self.version += 1
        metadata = {
            "namespace": "team",
            "name": name,
            "uid": uid or f"uid-{name}",
            "labels": labels or {},
            "resourceVersion": str(self.version),
        }
        thing = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **body}
        self.store.put(kind, thing)
        return thing

    def pod(self, name: str, *, ready: bool = True, uid: str = "", **labels: str) -> Raw:
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions}
        return self.put(POD, name, uid=uid, labels=LABELS | labels, status=status)


async def test_ready_pods_of_deployments_with_an_autoscaler_are_asked_and_no_others() -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    world.put(WENXIN_DEPLOYMENT, "other", spec={})
    world.pod("busy")
    world.pod("loading", ready=False)
    world.pod("unscaled", **{"serving.wenxin.io/deployment": "other"})
    world.pod("redis", **{"app.kubernetes.io/component": "redis"})
    await world.poller.round()
    assert world.asked == ["busy"]


async def test_of_a_group_of_pods_only_the_leader_is_asked() -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    for number in ("0", "1"):
        world.pod(f"g-{number}", **{"serving.wenxin.io/group": "g", "apps.kubernetes.io/pod-index": number})
    await world.poller.round()
    assert world.asked == ["g-0"]


async def test_a_pod_that_does_not_answer_is_missing_though_it_answered_before() -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    pod = world.pod("a")
    await world.poller.round()
    found = world.poller.sample(pod)
    assert found
    assert found.load.waiting == 1
    world.silent = {"a"}
    await world.poller.round()
    assert world.poller.sample(pod) is None
    assert world.counted == [True, False]


async def test_a_sample_knows_its_age_and_grows_stale() -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    pod = world.pod("a")
    await world.poller.round()
    world.now += 30
    found = world.poller.sample(pod)
    assert found
    assert world.poller.age(found) == 30
    world.now += 0.1
    assert world.poller.sample(pod) is None


async def test_a_pod_that_takes_the_name_of_another_does_not_take_its_sample() -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    world.pod("a", uid="first")
    await world.poller.round()
    assert world.poller.sample(world.pod("a", uid="second")) is None


async def test_what_went_is_forgotten() -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    pod = world.pod("a")
    await world.poller.round()
    assert len(world.poller) == 1
    world.store.remove(POD, pod)
    await world.poller.round()
    assert len(world.poller) == 0


async def test_no_more_than_a_few_are_asked_at_once() -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    for number in range(3 * AT_ONCE):
        world.pod(f"pod-{number}")
    await world.poller.round()
    assert len(world.asked) == len(set(world.asked)) == 3 * AT_ONCE
    assert world.most_at_once == AT_ONCE


@pytest.mark.parametrize("pods", [1, 2, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
async def test_however_few_there_are_all_are_asked_within_half_the_interval(
    pods: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(chance=1.0)
    world.put(WENXIN_DEPLOYMENT, "ernie", spec=SCALED)
    for number in range(pods):
        world.pod(f"pod-{number}")
    waited: defaultdict[object, float] = defaultdict(float)
    pause = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited[asyncio.current_task()] += seconds
        await pause(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    world.poller.warm.set()
    await world.poller.round()
    assert len(world.asked) == pods
    assert 0 < max(waited.values()) <= INTERVAL / 2


async def test_a_round_that_goes_wrong_does_not_end_the_polling(caplog: Any) -> None:
    world = World()
    world.put(WENXIN_DEPLOYMENT, "ernie", spec="no mapping")
    polling = asyncio.create_task(world.poller.run())
    await world.poller.warm.wait()
    assert not polling.done()
    assert "could not be asked" in caplog.text
    polling.cancel()
