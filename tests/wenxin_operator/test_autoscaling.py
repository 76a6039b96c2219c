"""Who sets the count of replicas, and what ScalingActive says about it: stories of passes without a cluster."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.wenxin_operator.fake_cluster import NAMESPACE, FakeCluster, Settings
from tests.wenxin_operator.passes import refusing, set_spec
from wenxin_operator.errors import Forbidden
from wenxin_operator.names import (
    API_VERSION,
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    POD,
    SCALED_OBJECT,
    WENXIN_DEPLOYMENT,
    Key,
    Raw,
)
from wenxin_operator.observe import concerned

KEDA = Settings(metrics_provider="keda", prometheus_address="http://prometheus.monitoring.svc:9090")
TARGET = {"apiVersion": API_VERSION, "kind": WENXIN_DEPLOYMENT, "name": "ernie"}
SCALING = {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound", "message": "from pods metric"}
WITHIN = {"type": "ScalingLimited", "status": "False", "reason": "DesiredWithinRange", "message": "in range"}
ABLE = {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale", "message": "matches"}


async def ask_for_one(cluster: FakeCluster, **more: Any) -> None:
    set_spec(cluster, autoscaling={"minReplicas": 1, "maxReplicas": 4, **more})
    await cluster.settle()


async def says(
    cluster: FakeCluster, *conditions: Raw, kind: str = HORIZONTAL_POD_AUTOSCALER, name: str = "ernie"
) -> None:
    """What the controller writes into the autoscaler's status."""
    cluster.edit(kind, name, lambda thing: thing.update(status={"conditions": list(conditions)}))
    await cluster.settle()


def ready_since(cluster: FakeCluster, moment: datetime) -> None:
    """All pods are, from then on."""
    cluster.run_pods("ernie")
    since = {"type": "Ready", "status": "True", "lastTransitionTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
    for name in cluster.names(POD):
        cluster.edit(POD, name, lambda thing: thing["status"].update(conditions=[since]))


def told(cluster: FakeCluster) -> Raw:
    return cluster.condition(WENXIN_DEPLOYMENT, "ernie", "ScalingActive")


def words(cluster: FakeCluster) -> tuple[str, str]:
    return told(cluster)["status"], told(cluster)["reason"]


def blind(message: str, reason: str = "FailedGetPodsMetric") -> Raw:
    return {"type": "ScalingActive", "status": "False", "reason": reason, "message": message}


async def test_without_the_field_there_is_no_autoscaler_and_no_condition(cluster: FakeCluster) -> None:
    assert cluster.names(HORIZONTAL_POD_AUTOSCALER) == []
    assert "ScalingActive" not in cluster.conditions(WENXIN_DEPLOYMENT, "ernie")


async def test_the_autoscaler_points_at_the_resource_itself_with_both_metrics(cluster: FakeCluster) -> None:
    set_spec(cluster, engine={"maxNumSeqs": 12})
    await ask_for_one(cluster, queueDepth=3)
    spec = cluster.objects[HORIZONTAL_POD_AUTOSCALER, "ernie"]["spec"]
    assert spec["scaleTargetRef"] == TARGET
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 4)
    targets = {one["pods"]["metric"]["name"]: one["pods"]["target"]["averageValue"] for one in spec["metrics"]}
    assert targets == {"wenxin_queue_depth": "3", "wenxin_requests_running": "9600m"}
    assert spec["behavior"]["scaleUp"]["policies"][0].keys() == {"type", "value", "periodSeconds"}
    assert spec["behavior"].keys() == {"scaleUp", "scaleDown"}


async def test_the_operator_never_writes_the_count(cluster: FakeCluster) -> None:
    await ask_for_one(cluster)
    set_spec(cluster, replicas=3)  # what the autoscaler does through /scale
    writes = await cluster.settle()
    assert not any("apply WenxinDeployment" in one or "overwrite" in one for one in writes)
    assert cluster.objects[WENXIN_DEPLOYMENT, "ernie"]["spec"]["replicas"] == 3
    assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 3


async def test_it_goes_when_the_field_goes_and_the_count_stays(cluster: FakeCluster) -> None:
    await ask_for_one(cluster)
    set_spec(cluster, replicas=3)
    await cluster.settle()
    cluster.edit(WENXIN_DEPLOYMENT, "ernie", lambda thing: thing["spec"].pop("autoscaling"))
    assert "delete HorizontalPodAutoscaler ernie" in await cluster.settle()
    assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["replicas"] == 3
    assert "ScalingActive" not in cluster.conditions(WENXIN_DEPLOYMENT, "ernie")


async def test_nothing_is_written_at_rest(cluster: FakeCluster) -> None:
    await ask_for_one(cluster)
    await says(cluster, ABLE, SCALING, WITHIN)
    assert await cluster.settle() == []


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (HORIZONTAL_POD_AUTOSCALER, TARGET),
        (SCALED_OBJECT, TARGET),
        (HORIZONTAL_POD_AUTOSCALER, {"apiVersion": "apps/v1", "kind": "Deployment", "name": "ernie"}),
        (SCALED_OBJECT, {"name": "ernie"}),  # KEDA takes it for a Deployment
    ],
    ids=["HPA", "ScaledObject", "HPA of the pods' object", "ScaledObject of the pods' object"],
)
async def test_there_are_never_two_on_one_target(cluster: FakeCluster, kind: str, target: Raw) -> None:
    cluster.served = {SCALED_OBJECT}
    await ask_for_one(cluster)
    cluster.create(kind, "theirs", {"scaleTargetRef": target})
    assert "delete HorizontalPodAutoscaler ernie" in await cluster.settle()
    assert words(cluster) == ("False", "AnotherAutoscaler")
    assert f"{kind} theirs of this namespace sets the count; remove it, or" in told(cluster)["message"]
    assert [event.reason for event in cluster.events if "ScalingActive" in event.note][-1] == "AnotherAutoscaler"
    cluster.remove(kind, "theirs")
    assert "apply HorizontalPodAutoscaler ernie" in await cluster.settle()


async def test_another_groups_resource_of_our_kind_is_not_meant(cluster: FakeCluster) -> None:
    await ask_for_one(cluster)
    cluster.create(HORIZONTAL_POD_AUTOSCALER, "theirs", {"scaleTargetRef": TARGET | {"apiVersion": "other.io/v1"}})
    await cluster.settle()
    assert cluster.names(HORIZONTAL_POD_AUTOSCALER) == ["ernie", "theirs"]


def test_an_autoscaler_wakes_what_it_scales() -> None:
    cluster = FakeCluster()
    cluster.create(DEPLOYMENT, "pods", {}, metadata={"name": "pods", "labels": {"serving.wenxin.io/deployment": "b"}})
    on = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "pods"}

    def woken(target: Raw) -> set[Key]:
        thing = {"metadata": {"namespace": NAMESPACE, "name": "x"}, "spec": {"scaleTargetRef": target}}
        return set(concerned(HORIZONTAL_POD_AUTOSCALER, thing, cluster))

    assert woken(TARGET) == {Key(WENXIN_DEPLOYMENT, NAMESPACE, "ernie")}
    assert woken(on) == {Key(WENXIN_DEPLOYMENT, NAMESPACE, "b")}
    assert woken(on | {"name": "others"}) == woken({"kind": "Other", "name": "x"}) == set()


class TestCondition:
    async def test_it_is_active_where_the_load_decides(self, cluster: FakeCluster) -> None:
        await ask_for_one(cluster)
        assert words(cluster) == ("False", "Starting")
        await says(cluster, ABLE, SCALING, WITHIN)
        assert words(cluster) == ("True", "Scaling")
        assert told(cluster)["message"] == "the load decides, between 1 and 4 replicas"

    @pytest.mark.parametrize(
        ("reason", "expected", "clause"),
        [
            ("TooManyReplicas", "ScalingLimited", "than spec.autoscaling.maxReplicas, 4, allows"),
            ("ScaleUpLimit", "ScalingLimited", "behavior.scaleUp sets the pace"),
            ("ScaleDownLimit", "ScalingLimited", "behavior.scaleDown sets the pace"),
            ("TooFewReplicas", "Scaling", "the load decides"),
        ],
    )
    async def test_it_says_what_holds_the_count_back(
        self, cluster: FakeCluster, reason: str, expected: str, clause: str
    ) -> None:
        await ask_for_one(cluster)
        await says(cluster, ABLE, SCALING, WITHIN | {"status": "True", "reason": reason})
        assert words(cluster) == ("True", expected)
        assert clause in told(cluster)["message"]

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            ("unable to get metric: no metrics returned from custom metrics API", "MetricsUnavailable"),
            ("unable to get metric wenxin_queue_depth: no custom metrics API (custom.metrics.k8s.io) registered",
             "NoMetricsServer"),
            ("unable to fetch metrics from custom metrics API: the server is currently unable to handle the request",
             "NoMetricsServer"),
            ("unable to fetch metrics from custom metrics API: the server could not find the requested resource",
             "NoMetricsServer"),
        ],
    )  # fmt: skip
    async def test_it_says_why_there_are_no_metrics_and_where_to_look(
        self, cluster: FakeCluster, message: str, reason: str
    ) -> None:
        await ask_for_one(cluster)
        await says(cluster, ABLE, blind(message))
        assert words(cluster) == ("False", reason)
        assert message in told(cluster)["message"]
        assert "; see `kubectl get" in told(cluster)["message"]
        assert [event.reason for event in cluster.events][-1] == reason

    async def test_a_first_measurement_has_a_minute_to_come_before_anybody_is_alarmed(
        self, cluster: FakeCluster
    ) -> None:
        await ask_for_one(cluster)
        ready_since(cluster, cluster.now)
        missing = blind("did not receive metrics for targeted pods")
        await says(cluster, ABLE, missing)
        assert words(cluster) == ("False", "Starting")
        assert not any("ScalingActive" in event.note for event in cluster.events)
        outcome = await cluster.run(WENXIN_DEPLOYMENT, "ernie")
        assert outcome.requeue_after == 60, "nothing else would bring a pass that tells it"
        cluster.now += timedelta(seconds=60)
        assert (await cluster.run(WENXIN_DEPLOYMENT, "ernie")).requeue_after is None
        assert words(cluster) == ("False", "MetricsUnavailable")
        assert [event.reason for event in cluster.events][-1] == "MetricsUnavailable"

    async def test_a_new_autoscaler_over_old_pods_has_that_minute_too(self, cluster: FakeCluster) -> None:
        await ask_for_one(cluster)
        ready_since(cluster, cluster.now - timedelta(hours=1))
        made = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        cluster.edit(HORIZONTAL_POD_AUTOSCALER, "ernie", lambda thing: thing["metadata"].update(creationTimestamp=made))
        await says(cluster, ABLE, blind("no metrics returned from custom metrics API"))
        assert words(cluster) == ("False", "Starting")

    async def test_metrics_that_go_missing_later_are_told_at_once(self, cluster: FakeCluster) -> None:
        await ask_for_one(cluster)
        ready_since(cluster, cluster.now - timedelta(hours=1))
        await says(cluster, ABLE, SCALING, WITHIN)
        await says(cluster, ABLE, blind("did not receive metrics for targeted pods"))
        assert words(cluster) == ("False", "MetricsUnavailable")

    async def test_while_no_replica_is_ready_there_is_nothing_to_measure(self, cluster: FakeCluster) -> None:
        await ask_for_one(cluster)
        cluster.run_pods("ernie", ready=False)
        await says(cluster, ABLE, blind("did not receive metrics for targeted pods (pods might be unready)"))
        assert words(cluster) == ("False", "NoReadyPods")
        assert not any("ScalingActive" in event.note for event in cluster.events), "it passes by itself"

    async def test_at_zero_replicas_it_is_switched_off(self, cluster: FakeCluster) -> None:
        await ask_for_one(cluster)
        set_spec(cluster, replicas=0)
        await says(cluster, ABLE, blind("the replica count of the target is zero", "ScalingDisabled"))
        assert words(cluster) == ("False", "ScaledToZero")

    @pytest.mark.parametrize(
        "condition",
        [
            {**ABLE, "status": "False", "reason": "FailedGetScale", "message": "no /scale"},
            blind("pods by selector are controlled by multiple HPAs", "AmbiguousSelector"),
        ],
        ids=lambda condition: condition["reason"],
    )
    async def test_other_trouble_is_told_as_it_is(self, cluster: FakeCluster, condition: Raw) -> None:
        await ask_for_one(cluster)
        await says(cluster, *({ABLE["type"]: ABLE, "ScalingActive": SCALING} | {condition["type"]: condition}).values())
        assert words(cluster) == ("False", condition["reason"])
        assert condition["message"] in told(cluster)["message"]

    async def test_an_autoscaler_that_may_not_be_made_is_told(self, cluster: FakeCluster) -> None:
        cluster.refuse = refusing(HORIZONTAL_POD_AUTOSCALER, Forbidden("may not", status=403, reason="Forbidden"))
        await ask_for_one(cluster)
        assert words(cluster) == ("False", "Forbidden")
        assert "HorizontalPodAutoscaler ernie: may not" in told(cluster)["message"]

    async def test_before_the_weights_are_known_it_waits(self) -> None:
        cluster = FakeCluster()
        spec = {"model": {"ref": "none"}, "autoscaling": {"maxReplicas": 2}}
        cluster.create(WENXIN_DEPLOYMENT, "ernie", spec)
        await cluster.settle()
        assert words(cluster) == ("False", "WaitingForModel")


class TestProviders:
    async def test_with_no_provider_there_is_no_autoscaler(self, cluster: FakeCluster) -> None:
        cluster.settings = Settings(metrics_provider="none")
        await ask_for_one(cluster)
        assert cluster.names(HORIZONTAL_POD_AUTOSCALER) == []
        assert words(cluster) == ("False", "NoMetricsProvider")

    async def test_prometheus_adapter_needs_the_same_autoscaler(self, cluster: FakeCluster) -> None:
        await ask_for_one(cluster)
        cluster.settings = Settings(metrics_provider="prometheus-adapter")
        assert await cluster.settle() == []

    async def test_keda_gets_a_scaled_object_that_asks_prometheus(self, cluster: FakeCluster) -> None:
        cluster.settings, cluster.served = KEDA, {SCALED_OBJECT}
        await ask_for_one(cluster)
        assert cluster.names(HORIZONTAL_POD_AUTOSCALER) == []
        spec = cluster.objects[SCALED_OBJECT, "ernie"]["spec"]
        assert (spec["scaleTargetRef"], spec["minReplicaCount"], spec["maxReplicaCount"]) == (TARGET, 1, 4)
        queue, running = spec["triggers"]
        assert (queue["metricType"], queue["metadata"]["threshold"]) == ("AverageValue", "5")
        assert queue["metadata"]["query"] == 'sum(wenxin_queue_depth{namespace="team",deployment="ernie"})'
        assert queue["metadata"]["ignoreNullValues"] == "false"
        assert running["metadata"]["threshold"] == "25.6"
        assert "fallback" not in spec
        assert set(spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]) == {"scaleUp", "scaleDown"}

    async def test_without_keda_the_condition_says_so(self, cluster: FakeCluster) -> None:
        cluster.settings = KEDA
        await ask_for_one(cluster)
        assert words(cluster) == ("False", "KedaNotInstalled")

    async def test_another_provider_takes_the_autoscaler_along(self, cluster: FakeCluster) -> None:
        cluster.served = {SCALED_OBJECT}
        await ask_for_one(cluster)
        cluster.settings = KEDA
        await cluster.settle()
        assert (cluster.names(HORIZONTAL_POD_AUTOSCALER), cluster.names(SCALED_OBJECT)) == ([], ["ernie"])

    async def test_what_keda_makes_of_our_scaled_object_is_no_rival_but_its_voice(self, cluster: FakeCluster) -> None:
        cluster.settings, cluster.served = KEDA, {SCALED_OBJECT}
        await ask_for_one(cluster)
        uid = cluster.objects[SCALED_OBJECT, "ernie"]["metadata"]["uid"]
        owner = {"kind": SCALED_OBJECT, "name": "ernie", "uid": uid, "controller": True}
        metadata = {"name": "keda-hpa-ernie", "ownerReferences": [owner]}
        cluster.create(HORIZONTAL_POD_AUTOSCALER, "keda-hpa-ernie", {"scaleTargetRef": TARGET}, metadata=metadata)
        await says(cluster, ABLE, SCALING, WITHIN, name="keda-hpa-ernie")
        assert words(cluster) == ("True", "Scaling")
        unready = {"type": "Ready", "status": "False", "reason": "ScaledObjectCheckFailed", "message": "no Prometheus"}
        await says(cluster, unready, kind=SCALED_OBJECT)
        assert words(cluster) == ("False", "KedaNotReady")
        assert "no Prometheus" in told(cluster)["message"]

    async def test_a_metric_that_keda_lacks_is_looked_for_at_its_scaled_object(self, cluster: FakeCluster) -> None:
        cluster.settings, cluster.served = KEDA, {SCALED_OBJECT}
        await ask_for_one(cluster)
        uid = cluster.objects[SCALED_OBJECT, "ernie"]["metadata"]["uid"]
        owner = {"kind": SCALED_OBJECT, "name": "ernie", "uid": uid, "controller": True}
        metadata = {"name": "keda-hpa-ernie", "ownerReferences": [owner]}
        cluster.create(HORIZONTAL_POD_AUTOSCALER, "keda-hpa-ernie", {"scaleTargetRef": TARGET}, metadata=metadata)
        cluster.run_pods("ernie", ready=True)
        await says(cluster, ABLE, blind("unable to get it", "FailedGetExternalMetric"), name="keda-hpa-ernie")
        assert words(cluster) == ("False", "MetricsUnavailable")
        assert told(cluster)["message"].endswith("see `kubectl describe scaledobject ernie`")

    async def test_what_keda_makes_of_anothers_is_named_once(self, cluster: FakeCluster) -> None:
        cluster.served = {SCALED_OBJECT}
        await ask_for_one(cluster)
        theirs = cluster.create(SCALED_OBJECT, "theirs", {"scaleTargetRef": TARGET})
        owner = {"kind": SCALED_OBJECT, "name": "theirs", "uid": theirs["metadata"]["uid"], "controller": True}
        metadata = {"name": "keda-hpa-theirs", "ownerReferences": [owner]}
        cluster.create(HORIZONTAL_POD_AUTOSCALER, "keda-hpa-theirs", {"scaleTargetRef": TARGET}, metadata=metadata)
        await cluster.settle()
        assert told(cluster)["message"].startswith("ScaledObject theirs of this namespace sets")
