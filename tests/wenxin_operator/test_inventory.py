"""What Prometheus is told of each resource is what its status says."""

from typing import Any

from prometheus_client import CollectorRegistry

from wenxin_operator.inventory import Inventory
from wenxin_operator.names import WENXIN_DEPLOYMENT, WENXIN_MODEL

PLACE = {"namespace": "here", "deployment": "ernie"}


def told(*deployments: dict[str, Any], models: tuple[dict[str, Any], ...] = ()) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Inventory({WENXIN_DEPLOYMENT: deployments, WENXIN_MODEL: models}.__getitem__))
    return registry


def resource(name: str = "ernie", spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "here", "name": name}, "spec": spec or {}, "status": status}


def condition(kind: str, status: str, reason: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason}


def test_each_condition_is_a_series_with_its_reason() -> None:
    conditions = [condition("Ready", "True", "Answering"), condition("Progressing", "False", "RolloutComplete")]
    registry = told(resource(conditions=conditions), models=(resource("weights", conditions=conditions[:1]),))
    name = "wenxin_operator_deployment_condition"
    assert registry.get_sample_value(name, PLACE | {"condition": "Ready", "reason": "Answering"}) == 1
    assert registry.get_sample_value(name, PLACE | {"condition": "Progressing", "reason": "RolloutComplete"}) == 0
    labels = {"namespace": "here", "model": "weights", "condition": "Ready", "reason": "Answering"}
    assert registry.get_sample_value("wenxin_operator_model_condition", labels) == 1


def test_replicas_and_gpus_are_those_of_the_status_and_one_is_wanted_where_the_spec_says_nothing() -> None:
    registry = told(resource(replicas=3, readyReplicas=2, gpus=12))
    counted = {
        state: registry.get_sample_value("wenxin_operator_deployment_replicas", PLACE | {"state": state})
        for state in ("wanted", "present", "ready")
    }
    assert counted == {"wanted": 1, "present": 3, "ready": 2}
    assert registry.get_sample_value("wenxin_operator_deployment_gpus", PLACE) == 12


def test_the_limit_of_autoscaling_is_told_only_where_it_is_set() -> None:
    registry = told(resource(spec={"replicas": 4, "autoscaling": {"maxReplicas": 8}}), resource("fixed"))
    limits = [sample for family in registry.collect() for sample in family.samples if "max" in sample.name]
    assert [(sample.labels["deployment"], sample.value) for sample in limits] == [("ernie", 8)]


def test_how_far_a_download_is_is_told_of_models_that_are_fetched() -> None:
    fetched = resource("weights", download={"doneBytes": 3, "totalBytes": 7, "files": 1})
    registry = told(models=(fetched, resource("on-a-claim")))
    counted = {
        (model, state): registry.get_sample_value(
            "wenxin_operator_model_download_bytes", {"namespace": "here", "model": model, "state": state}
        )
        for model in ("weights", "on-a-claim")
        for state in ("done", "total")
    }
    assert counted == {
        ("weights", "done"): 3,
        ("weights", "total"): 7,
        ("on-a-claim", "done"): None,
        ("on-a-claim", "total"): None,
    }


def test_a_resource_that_no_pass_has_seen_yet_has_no_condition_and_no_replica() -> None:
    registry = told({"metadata": {"namespace": "here", "name": "ernie"}})
    samples = {sample.name for family in registry.collect() for sample in family.samples if sample.value}
    assert samples == {"wenxin_operator_deployment_replicas"}
