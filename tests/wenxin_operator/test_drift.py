"""Promises of drift detection: what we planned is held to, what others add is let be."""

import pytest

from wenxin_operator.drift import drift, quantity

CONTAINER = {"name": "runtime", "image": "wenxin/runtime:1", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}


def deployment(container, **spec):
    return {"spec": {"replicas": 2, "template": {"spec": {"containers": [container], **spec}}}}


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("1000m", 1), ("1Gi", 2**30), ("1024Mi", 2**30), ("1k", 1000), ("1e3", 1000), ("0.5", 0.5), (2, 2)],
)
def test_a_quantity_is_a_number_however_it_is_spelled(text, number):
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "abc", "1Xi", "5s"])
def test_what_is_no_quantity_is_none(text):
    assert quantity(text) is None


def test_an_object_as_planned_has_not_drifted():
    assert drift(deployment(CONTAINER), deployment(CONTAINER)) is None


def test_fields_that_the_api_server_defaults_are_not_drift():
    live = deployment({**CONTAINER, "terminationMessagePath": "/dev/termination-log"}, dnsPolicy="ClusterFirst")
    assert drift(deployment(CONTAINER), live) is None


def test_a_sidecar_that_a_webhook_injects_is_not_drift():
    live = deployment(CONTAINER)
    live["spec"]["template"]["spec"]["containers"].insert(0, {"name": "mesh", "image": "mesh:1"})
    assert drift(deployment(CONTAINER), live) is None


def test_the_same_quantity_spelled_otherwise_is_not_drift():
    live = deployment({**CONTAINER, "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}})
    assert drift(deployment(CONTAINER), live) is None


def test_another_quantity_is_drift_and_named():
    live = deployment({**CONTAINER, "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}})
    assert drift(deployment(CONTAINER), live) == "spec.template.spec.containers[runtime].resources.limits.cpu"


def test_text_that_looks_like_a_quantity_is_compared_as_text():
    assert drift({"data": {"flags": "1000m"}}, {"data": {"flags": "1"}}) == "data.flags"


def test_a_changed_scalar_is_drift():
    assert drift({"spec": {"replicas": 2}}, {"spec": {"replicas": 3}}) == "spec.replicas"


def test_a_removed_item_of_a_named_list_is_drift():
    planned = {"spec": {"ports": [{"name": "http", "port": 8000}]}}
    assert drift(planned, {"spec": {"ports": [{"name": "web", "port": 8000}]}}) == "spec.ports[http]"


def test_a_list_of_scalars_is_ours_whole():
    assert drift({"args": ["a"]}, {"args": ["a", "b"]}) == "args"
    assert drift({"args": ["a", "b"]}, {"args": ["b", "a"]}) == "args[0]"
    assert drift({"args": ["a"]}, {}) == "args"


def test_a_list_of_unnamed_things_is_ours_whole():
    planned = {"ingress": [{"from": [{"podSelector": {}}]}]}
    assert drift(planned, {"ingress": [{"from": [{"podSelector": {}}]}, {}]}) == "ingress"


def test_an_empty_plan_equals_an_absent_field():
    assert drift({"labels": {}, "egress": []}, {}) is None


def test_a_mapping_that_became_something_else_is_drift():
    assert drift({"selector": {"a": "b"}}, {"selector": None}) == "selector"


def test_one_more_key_in_a_selector_is_drift():
    live = {"spec": {"selector": {"a": "b", "c": "d"}}}
    assert drift({"spec": {"selector": {"a": "b"}}}, live) == "spec.selector"
    assert drift({"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"a": "b", "c": "d"}}}) is None
