"""spec.answerCache: a Redis of the operator's or of the user's, what the pods see of it, and CacheReady."""

from typing import Any

import pytest

from tests.wenxin_operator.fake_cluster import NAMESPACE, FakeCluster, claim
from tests.wenxin_operator.passes import INLINE, refusing, status_of
from wenxin_operator import names
from wenxin_operator.api.answer_cache import memory_bytes
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.errors import Forbidden, SpecError
from wenxin_operator.names import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    SERVICE,
    STATEFUL_SET,
    WENXIN_DEPLOYMENT,
    Raw,
)

REDIS = names.redis("ernie")
MANAGED = {"redis": {"managed": {}}}
OWN = {"redis": {"urlSecretRef": {"name": "elsewhere"}}}
MADE = (STATEFUL_SET, SERVICE, NETWORK_POLICY)


async def started(cache: Raw | None, replicas: int = 2) -> FakeCluster:
    """A deployment whose pods answer."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_DEPLOYMENT, "ernie", {**INLINE, "replicas": replicas, "answerCache": cache})
    await cluster.settle()
    cluster.finish_inspection("ernie")
    await cluster.settle()
    cluster.run_pods("ernie")
    await cluster.settle()
    return cluster


def run_redis(cluster: FakeCluster, *, ready: bool = True, waiting: Raw | None = None) -> None:
    """What the StatefulSet's controller and the kubelet do."""
    live = cluster.objects[STATEFUL_SET, REDIS]
    containers = [{"name": "redis", "ready": ready, "state": {"waiting": waiting} if waiting else {}}]
    cluster._store(
        {
            "apiVersion": "v1",
            "kind": POD,
            "metadata": {
                "name": f"{REDIS}-0",
                "labels": live["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{"uid": live["metadata"]["uid"]}],
            },
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": str(ready)}],
                "containerStatuses": containers,
            },
        }
    )
    cluster._store({**live, "status": {"readyReplicas": int(ready)}})


def say(cluster: FakeCluster, *caches: str) -> None:
    """What each serving pod says of its cache."""
    load = {"waiting": 0, "running": 0, "slots": 8, "queue_size": 100}
    cluster.says = {f"ernie-{number}": load | ({"cache": said} if said else {}) for number, said in enumerate(caches)}


def told(cluster: FakeCluster) -> tuple[str, str]:
    condition = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "CacheReady")
    return condition["status"], condition["reason"]


def change(cluster: FakeCluster, cache: Raw | None) -> None:
    cluster.edit(WENXIN_DEPLOYMENT, "ernie", lambda thing: thing["spec"].update(answerCache=cache))


class TestManaged:
    async def test_a_redis_of_its_own_comes_before_the_weights_and_its_password_before_it(self) -> None:
        cluster = FakeCluster()
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {**INLINE, "answerCache": MANAGED})
        written = await cluster.settle()
        assert all(cluster.objects.get((kind, REDIS)) for kind in MADE)
        assert written.index(f"make Secret {REDIS}") < written.index(f"apply StatefulSet {REDIS}")
        assert cluster.made[REDIS]["stringData"]["url"] == f"redis://wenxin:PASSWORD@{REDIS}.team.svc:6379"

    async def test_while_redis_answers_every_pod_its_secret_is_left_alone(self) -> None:
        cluster = await started(MANAGED)
        run_redis(cluster)
        say(cluster, "ok", "ok")
        await cluster.settle()
        del cluster.made[REDIS]
        assert await cluster.settle() == []

    @pytest.mark.parametrize("missing", ["stateful set", "pod", "answer"])
    async def test_a_secret_that_somebody_deleted_comes_back_once_it_is_missed(self, missing: str) -> None:
        cluster = await started(MANAGED)
        run_redis(cluster)
        say(cluster, "ok", "down" if missing == "answer" else "ok")
        await cluster.settle()
        del cluster.made[REDIS]
        if missing == "stateful set":
            cluster.remove(STATEFUL_SET, REDIS)
        if missing == "pod":
            run_redis(cluster, ready=False)
        assert f"make Secret {REDIS}" in await cluster.settle()

    async def test_a_pod_of_it_that_never_becomes_ready_is_replaced_when_its_template_is_mended(self) -> None:
        live = (await started(MANAGED)).objects[STATEFUL_SET, REDIS]
        assert live["spec"]["podManagementPolicy"] == "Parallel"  # else Kubernetes waits for it for ever

    async def test_without_the_right_to_make_it_the_status_says_so_and_all_else_comes(self) -> None:
        cluster = FakeCluster(refuse=refusing("Secret", Forbidden("no", status=403), "make"))
        claim(cluster)
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {**INLINE, "answerCache": MANAGED})
        await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        progressing = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Progressing")
        assert progressing["reason"] == "Forbidden"
        assert cluster.objects[SERVICE, "ernie"]

    async def test_it_is_no_replica_and_no_group(self) -> None:
        cluster = await started(MANAGED)
        run_redis(cluster)
        await cluster.settle()
        status = status_of(cluster)
        assert (status["replicas"], status["readyReplicas"]) == (2, 2)
        assert "component=runtime" in status["selector"]
        assert cluster.names(DEPLOYMENT) == ["ernie"]

    async def test_only_its_own_deployments_pods_reach_it_and_it_reaches_nobody(self) -> None:
        cluster = await started(MANAGED)
        policy = cluster.objects[NETWORK_POLICY, REDIS]["spec"]
        (rule,) = policy["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": names.pod_selector("ernie")}}]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert "egress" not in policy
        out = cluster.objects[NETWORK_POLICY, "ernie"]["spec"]["egress"][1]
        assert out["to"] == [{"podSelector": policy["podSelector"]}]

    async def test_another_size_is_another_configuration_and_another_pod(self) -> None:
        cluster = await started(MANAGED)
        before = cluster.objects[STATEFUL_SET, REDIS]["spec"]["template"]
        change(cluster, {"redis": {"managed": {"memory": "2Gi"}}})
        await cluster.settle()
        after = cluster.objects[STATEFUL_SET, REDIS]["spec"]["template"]["spec"]
        assert after["containers"][0]["resources"]["limits"] == {"memory": "2Gi"}
        assert after["volumes"][1] != before["spec"]["volumes"][1]
        name = after["volumes"][1]["configMap"]["name"]
        assert f"maxmemory {3 * 2**29}\n" in cluster.objects[CONFIG_MAP, name]["data"]["redis.conf"]


class TestChanges:
    @pytest.mark.parametrize("after", [OWN, None])
    async def test_what_is_no_longer_asked_for_goes_and_the_pods_are_new_ones(self, after: Raw | None) -> None:
        cluster = await started(MANAGED)
        before = cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"]
        change(cluster, after)
        await cluster.settle()
        cluster.run_pods("ernie")
        await cluster.settle()
        assert not any((kind, REDIS) in cluster.objects for kind in MADE)
        assert not [name for name in cluster.names(CONFIG_MAP) if "redis" in name]
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"] != before
        assert cluster.conditions(WENXIN_DEPLOYMENT, "ernie")["Ready"] == "True"

    async def test_no_pod_waits_for_a_secret(self) -> None:
        authority = {"caSecretRef": {"name": "authority"}}
        for cache in (MANAGED, OWN, {"redis": OWN["redis"] | authority}):
            cluster = await started(cache)
            pod = cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"]["spec"]
            (volume,) = [each for each in pod["volumes"] if each["name"] == "redis"]
            assert all(source["secret"]["optional"] for source in volume["projected"]["sources"])
            variables = {each["name"] for each in pod["containers"][0]["env"]}
            assert "WENXIN_REDIS_URL_FILE" in variables
            assert ("WENXIN_REDIS_CA_FILE" in variables) == ("caSecretRef" in cache["redis"])


class TestCacheReady:
    async def test_it_is_there_only_where_there_is_a_cache(self) -> None:
        assert "CacheReady" not in (await started(None)).conditions(WENXIN_DEPLOYMENT, "ernie")

    @pytest.mark.parametrize("cache", [MANAGED, OWN])
    async def test_it_is_what_the_pods_say(self, cache: Raw) -> None:
        cluster = await started(cache)
        if cache is MANAGED:
            run_redis(cluster)
        await cluster.settle()
        assert told(cluster) == ("False", "WaitingForPods")
        for caches, expected in (
            (("ok", "ok"), ("True", "Answering")),
            (("ok", "down"), ("False", "RedisUnreachable")),
            (("", "ok"), ("True", "Answering")),  # a pod of an older runtime does not say
        ):
            say(cluster, *caches)
            await cluster.settle()
            assert told(cluster) == expected
        assert cluster.conditions(WENXIN_DEPLOYMENT, "ernie")["Ready"] == "True"
        assert [event.reason for event in cluster.events].count("RedisUnreachable") == 1

    async def test_a_managed_redis_that_is_not_ready_says_why(self) -> None:
        cluster = await started(MANAGED)
        say(cluster, "ok", "ok")
        await cluster.settle()
        assert told(cluster) == ("False", "RedisStarting")
        run_redis(cluster, ready=False, waiting={"reason": "ErrImagePull", "message": "not found"})
        await cluster.settle()
        assert told(cluster) == ("False", "ImagePullBackOff")
        run_redis(cluster)
        await cluster.settle()
        assert told(cluster) == ("True", "Answering")

    async def test_at_rest_nothing_is_written(self) -> None:
        cluster = await started(MANAGED)
        run_redis(cluster)
        say(cluster, "ok", "ok")
        await cluster.settle()
        cluster.sleep(3600)
        assert await cluster.settle() == []


@pytest.mark.parametrize(
    ("redis", "words"),
    [
        ({}, "give exactly one of redis.managed and redis.urlSecretRef"),
        ({"managed": {}, "urlSecretRef": {"name": "a"}}, "give exactly one of"),
        ({"managed": {}, "ports": [6379]}, "redis.ports and redis.caSecretRef belong to redis.urlSecretRef"),
        ({"managed": {}, "caSecretRef": {"name": "a"}}, "redis.ports and redis.caSecretRef belong to"),
        ({"managed": {"memory": "63Mi"}}, "write a size such as 512Mi or 2Gi; it must be at least 64Mi"),
        ({"managed": {"memory": "1"}}, "write a size such as"),
        ({"urlSecretRef": {"name": "a"}, "ports": [1, 1]}, "name each port once"),
    ],
)
def test_a_redis_that_is_none_is_refused(redis: Any, words: str) -> None:
    refused = parse(DeploymentSpec, {**INLINE, "answerCache": {"redis": redis}})
    assert isinstance(refused, SpecError)
    assert words in str(refused)


def test_a_size_is_in_powers_of_two() -> None:
    assert (memory_bytes("64Mi"), memory_bytes("2Gi")) == (64 * 2**20, 2 * 2**30)


@pytest.mark.parametrize("name", ["e", "e" * 63])
def test_a_name_leaves_room_for_what_kubernetes_makes_of_it(name: str) -> None:
    assert len(names.redis(name)) <= 52
    assert len(names.redis_config_map(name, "text")) <= 63
    assert NAMESPACE
