"""A registry behind credentials: every pod that the operator makes can pull its image, whatever the spec says."""

from typing import Any

import pytest

from tests.wenxin_operator.fake_cluster import FakeCluster, Settings, claim
from wenxin_operator.names import WENXIN_DEPLOYMENT, WENXIN_MODEL

MODEL = {"source": "pvc://weights/ernie"}
MIRROR = {"name": "mirror"}
OWN = {"name": "own"}


def templates(cluster: FakeCluster) -> dict[str, Any]:
    """The pods of all Jobs and workloads, by kind and name."""
    return {
        f"{each['kind']}/{each['metadata']['name']}": each["spec"]["template"]["spec"]
        for each in cluster.objects.values()
        if "template" in each.get("spec", {})
    }


async def everything(secrets: tuple[str, ...], **pod: Any) -> dict[str, Any]:
    cluster = FakeCluster(settings=Settings(image_pull_secrets=secrets))
    claim(cluster)
    spec = {"model": MODEL, "accelerator": {"resource": "none"}, "answerCache": {"redis": {"managed": {}}}, "pod": pod}
    cluster.create(WENXIN_DEPLOYMENT, "ernie", spec)
    cluster.create(WENXIN_MODEL, "fetched", {"preset": "ernie-4.5-0.3b"})
    await cluster.settle()
    found = templates(cluster)
    cluster.finish_inspection("ernie")
    await cluster.settle()
    return found | templates(cluster)


async def test_each_pod_has_the_operators_secrets() -> None:
    found = await everything(("mirror",))
    assert {name.partition("/")[0] for name in found} == {"Job", "Deployment", "StatefulSet"}
    assert len([name for name in found if name.startswith("Job/")]) == 2, "one inspects, one downloads"
    assert {name: pod.get("imagePullSecrets") for name, pod in found.items()} == {key: [MIRROR] for key in found}


@pytest.mark.parametrize(("named", "expected"), [([OWN], [OWN, MIRROR]), ([OWN, MIRROR], [OWN, MIRROR])])
async def test_those_of_a_spec_come_first_and_each_is_there_once(named: list[Any], expected: list[Any]) -> None:
    found = await everything(("mirror",), imagePullSecrets=named)
    assert found["Deployment/ernie"]["imagePullSecrets"] == expected


async def test_without_any_nothing_is_said_of_them() -> None:
    assert all("imagePullSecrets" not in pod for pod in (await everything(())).values())


async def test_a_job_that_waits_for_an_image_is_replaced_when_secrets_come() -> None:
    before, after = await everything(()), await everything(("mirror",))
    jobs = {name for name in before if name.startswith("Job/")}
    assert len(jobs) == 2
    assert jobs.isdisjoint(after)
