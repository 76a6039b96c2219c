"""Whatever happens to a download, in whatever order: one writer at a time, one claim, and in the end the weights."""

import asyncio
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wenxin_operator import downloads
from tests.wenxin_operator.downloads import HALF, asked_for
from tests.wenxin_operator.fake_cluster import FakeCluster, Settings
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.names import JOB, LABEL_JOB_NAME, PERSISTENT_VOLUME_CLAIM, POD, WENXIN_MODEL, Raw

CLAIM = (PERSISTENT_VOLUME_CLAIM, "ernie-weights")


def change(cluster: FakeCluster, **fields: object) -> None:
    cluster.edit(WENXIN_MODEL, "ernie", lambda thing: thing.update(spec={**thing["spec"], **fields}))


def jobs(cluster: FakeCluster) -> list[Raw]:
    return [cluster.objects[JOB, name] for name in cluster.names(JOB)]


def under_way(cluster: FakeCluster) -> list[Raw]:
    return [job for job in jobs(cluster) if not job.get("status", {}).get("conditions")]


def starts(cluster: FakeCluster) -> None:
    if under_way(cluster):
        downloads.start(cluster, "ernie", HALF)


def fails(cluster: FakeCluster) -> None:
    if under_way(cluster):
        downloads.finish(cluster, "ernie", failed={"reason": "DownloadFailed", "message": "the hub is away"})


def succeeds(cluster: FakeCluster) -> None:
    if under_way(cluster):
        downloads.finish(cluster, "ernie")


def is_deleted(cluster: FakeCluster) -> None:
    for job in under_way(cluster):
        cluster.remove(JOB, job["metadata"]["name"])


EVENTS: dict[str, Callable[[FakeCluster], None]] = {
    "the pod starts": starts,
    "the attempt fails": fails,
    "the attempt succeeds": succeeds,
    "somebody deletes the Job": is_deleted,
    "time passes": lambda cluster: cluster.sleep(300),
    "a little time passes": lambda cluster: cluster.sleep(5),
    "another mirror": lambda cluster: change(cluster, mirror="https://mirror.example.com"),
    "another revision": lambda cluster: change(cluster, revision="v2"),
    "the first revision again": lambda cluster: change(cluster, revision="v1"),
    "a larger claim": lambda cluster: change(cluster, storage={"size": "50Gi"}),
    "another image": lambda cluster: setattr(cluster, "settings", Settings(runtime_image="registry.example/r:2")),
}


def check(cluster: FakeCluster, claim: str) -> None:
    waiting = under_way(cluster)
    running = {
        cluster.objects[POD, name]["metadata"]["labels"][LABEL_JOB_NAME]
        for name in cluster.names(POD)
        if cluster.objects[POD, name]["status"]["phase"] == "Running"
    }
    assert len({job["metadata"]["name"] for job in waiting} | running) <= 1, "two would write at the same time"
    assert cluster.objects[CLAIM]["metadata"]["uid"] == claim


async def live_through(history: list[str]) -> None:
    cluster = await asked_for({"preset": "ernie-4.5-0.3b", "revision": "v1"})
    claim = cluster.objects[CLAIM]["metadata"]["uid"]
    for event in history:
        EVENTS[event](cluster)
        await cluster.settle()
        check(cluster, claim)
    cluster.sleep(300)
    await cluster.settle()
    succeeds(cluster)
    await cluster.settle()
    live = cluster.objects[WENXIN_MODEL, "ernie"]
    assert cluster.conditions(WENXIN_MODEL, "ernie") == {"Accepted": "True", "Ready": "True"}
    where = ModelSpec.model_validate(live["spec"]).where("ernie")
    assert live["status"]["location"] == f"pvc://{where.claim}/{where.path}"
    assert await cluster.settle() == [], "and then there is rest"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=12))
def test_any_history_of_a_download_ends_with_the_weights_of_the_spec(history: list[str]) -> None:
    asyncio.run(live_through(history))
