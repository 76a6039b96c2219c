"""A team lets the load decide how many replicas there are, with nothing installed but the chart."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.stories.endpoint import Endpoint
from e2e.stories.traffic import traffic

SLOTS = 2
AUTOSCALING: dict[str, Any] = {
    "minReplicas": 1,
    "maxReplicas": 2,
    "queueDepth": 1,
    # Minutes would pass by the defaults before a replica goes.
    "behavior": {
        "scaleDown": {
            "stabilizationWindowSeconds": 10,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}],
        }
    },
}


@pytest.fixture
def scaled(tiny: Endpoint) -> Iterator[Endpoint]:
    """The tiny deployment with an autoscaler that has seen how idle it is; one replica again when the story is over."""
    if not tiny.cluster.backend.reaches_services:
        pytest.skip("a port-forward holds on to one pod, so the load would never reach the second")
    tiny.apply(engine={"maxNumSeqs": SLOTS}, autoscaling=AUTOSCALING)
    tiny.ready()
    tiny.cluster.wait_condition(tiny.id, "ScalingActive", namespace=tiny.namespace, seconds=60)
    yield tiny
    tiny.apply()
    tiny.cluster.kubectl("scale", tiny.id, "--replicas=1", namespace=tiny.namespace)


def two_compute(endpoint: Endpoint) -> bool:
    """Whether two replicas are ready and each has something to do, asked one by one."""
    if endpoint.get()["status"].get("readyReplicas") != 2:
        return False
    urls = [f"http://{pod['status']['podIP']}:8000/load" for pod in endpoint.pods()]
    return all(httpx.get(url, trust_env=False).raise_for_status().json()["running"] > 0 for url in urls)


def test_scale_up_and_down_on_real_load(scaled: Endpoint) -> None:
    active = scaled.condition("ScalingActive")
    assert len(scaled.pods()) == 1, "an idle deployment has its minimum"
    with traffic(scaled, clients=1) as trickle:
        with traffic(scaled, clients=0, streams=4 * SLOTS, tokens=scaled.tokens_in(seconds=2)) as load:
            scaled.cluster.wait(
                lambda: two_compute(scaled),
                seconds=90,
                what="a second replica that shares the load",
                about=scaled.id,
                namespace=scaled.namespace,
            )
        scaled.cluster.wait(
            lambda: len(scaled.pods()) == 1,
            seconds=90,
            what="one replica, for one is enough",
            about=scaled.id,
            namespace=scaled.namespace,
        )
        scaled.ready()
    assert load.failures == trickle.failures == []
    assert load.streamed > 0
    assert trickle.answered > 0
    now = scaled.condition("ScalingActive")
    assert now["status"] == "True"
    assert now["lastTransitionTime"] == active["lastTransitionTime"], "the autoscaler was never blind"
