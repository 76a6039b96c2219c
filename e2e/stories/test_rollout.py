"""Replicas go and are replaced under steady load: no request fails, no stream loses its last token."""

import json

import httpx
import pytest

from e2e.harness.cluster import Object
from e2e.stories.endpoint import Endpoint
from e2e.stories.streams import streaming
from e2e.stories.traffic import traffic

COST = "controller.kubernetes.io/pod-deletion-cost"
WORDS = {"Surge": "a new one comes before an old one goes", "Replace": "an old one goes before a new one comes"}


@pytest.fixture(autouse=True)
def _reached(tiny: Endpoint) -> None:
    if not tiny.cluster.backend.reaches_services:
        pytest.skip("a port-forward holds on to one pod, so it breaks with it, whatever the Service does")


def every_pod(endpoint: Endpoint) -> dict[str, Object]:
    """Its pods by name, those on their way out included."""
    found = endpoint.cluster.list("pods", namespace=endpoint.namespace, selector=endpoint.selector)
    return {pod["metadata"]["name"]: pod for pod in found}


@pytest.mark.parametrize("strategy", WORDS)
def test_a_new_version_under_steady_load_fails_no_request_and_cuts_no_stream(tiny: Endpoint, strategy: str) -> None:
    two = {"replicas": 2, "rollout": {"strategy": strategy}}
    tiny.apply(**two)
    tiny.ready()
    with traffic(tiny, clients=2, streams=2) as seen:
        tiny.apply(**two, engine={"maxNumSeqs": 6})
        tiny.cluster.wait(
            lambda: WORDS[strategy] in tiny.condition("Progressing")["message"],
            seconds=60,
            what="Progressing to say which way it goes",
            about=tiny.id,
            namespace=tiny.namespace,
        )
        tiny.ready()
        tiny.answers_with(slots=6)
    assert seen.failures == []
    assert seen.answered > 0
    assert seen.streamed > 0


def test_four_replicas_become_one_under_load_and_the_idlest_go(tiny: Endpoint) -> None:
    tiny.apply(replicas=4)
    tiny.ready()
    busy = sorted(every_pod(tiny))[1]
    url = f"http://{every_pod(tiny)[busy]['status']['podIP']}:8000"
    tokens = min(1500, tiny.tokens_in(seconds=15))
    with (
        traffic(tiny, clients=1, streams=1) as seen,
        httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client,
        streaming(client, tiny.name, max_tokens=tokens, choices=6) as stream,
    ):
        tiny.cluster.kubectl("scale", "wd/tiny", "--replicas=1", namespace=tiny.namespace)
        tiny.cluster.wait(
            lambda: len(tiny.pods()) == 1, seconds=60, what="one pod", about=tiny.id, namespace=tiny.namespace
        )
        costs = {name: int(pod["metadata"]["annotations"].get(COST, "0")) for name, pod in every_pod(tiny).items()}
        ending = stream.rest()
        tiny.ready()
    assert tiny.pod()["metadata"]["name"] == busy
    assert costs[busy] >= 6, "as many sequences as it had"
    assert max((cost for name, cost in costs.items() if name != busy), default=0) < costs[busy], json.dumps(costs)
    assert ending.done, ending
    assert ending.finish_reason == "length"
    assert seen.failures == []
    assert seen.answered > 0
    assert seen.streamed > 0


def test_a_version_that_never_becomes_ready_leaves_the_old_one_serving_and_says_what_is_wrong(tiny: Endpoint) -> None:
    old = tiny.pod()["metadata"]["uid"]
    with traffic(tiny, clients=1, streams=1) as seen:
        tiny.apply(image="localhost/wenxin/runtime:absent")
        tiny.cluster.wait(
            lambda: tiny.condition("Progressing")["reason"] == "ImagePullBackOff",
            seconds=60,
            what="Progressing to name the image",
            about=tiny.id,
            namespace=tiny.namespace,
        )
        assert "localhost/wenxin/runtime:absent" in tiny.condition("Progressing")["message"]
        assert tiny.condition("Available")["status"] == "True"
        tiny.apply()
        tiny.ready()
    assert tiny.pod()["metadata"]["uid"] == old, "it served all the time, and goes on"
    assert seen.failures == []
    assert seen.answered > 0
