"""A repeated prompt is answered from Redis, and Redis may be killed: nobody notices but the GPU."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from e2e.harness.cluster import Cluster, Object
from e2e.harness.network_policy import Network, Outside, Pod
from e2e.stories.endpoint import Endpoint
from e2e.stories.test_plugin import wenxin

REDIS = "app.kubernetes.io/component=redis"
PORT = 6379
MANIFEST: Object = {
    "apiVersion": "serving.wenxin.io/v1alpha1",
    "kind": "WenxinDeployment",
    "metadata": {"name": "cached"},
    "spec": {
        "model": {"source": "pvc://models/tiny"},
        "accelerator": {"resource": "none"},
        "answerCache": {"redis": {"managed": {"memory": "64Mi"}}},
        "drain": {"timeout": "30s"},
        "pod": {"resources": {"requests": {"cpu": "250m"}}},
    },
}


@pytest.fixture(scope="module")
def cached(cluster: Cluster, checkpoints: str) -> Endpoint:
    endpoint = Endpoint(cluster, MANIFEST, checkpoints)
    endpoint.apply()
    endpoint.ready()
    cache_ready(endpoint)
    return endpoint


def cache_ready(endpoint: Endpoint) -> None:
    endpoint.cluster.wait_condition(endpoint.id, "CacheReady", namespace=endpoint.namespace, seconds=60)


def redis_pod(endpoint: Endpoint) -> Object:
    (pod,) = endpoint.cluster.list("pods", namespace=endpoint.namespace, selector=REDIS)
    return pod


def chat(client: httpx.Client, question: str, **more: object) -> tuple[str, str]:
    """Where an answer came from, and its text, streamed or whole."""
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 12, **more}
    answer = client.post("/v1/chat/completions", json=body).raise_for_status()
    how = answer.headers["x-wenxin-cache"]
    if "stream" not in more:
        return how, answer.json()["choices"][0]["message"]["content"]
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return how, "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)


def hit(endpoint: Endpoint, question: str) -> None:
    """Ask until the answer comes from Redis: it is written beside the answer, and a breaker takes its time."""
    with endpoint.client() as client:
        endpoint.cluster.wait(lambda: chat(client, question)[0] == "hit", seconds=60, what="an answer from Redis")


def test_a_repeated_prompt_is_answered_from_redis_streamed_or_whole(cached: Endpoint) -> None:
    with cached.client() as client:
        how, text = chat(client, "whole first")
        assert how == "miss"
        hit(cached, "whole first")
        assert chat(client, "whole first", stream=True) == ("hit", text)
        how, text = chat(client, "streamed first", stream=True)
        assert how == "miss"
        hit(cached, "streamed first")
        assert chat(client, "streamed first") == ("hit", text)


def test_redis_counts_as_no_replica_and_runs_restricted(cached: Endpoint) -> None:
    status = cached.get()["status"]
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    spec = redis_pod(cached)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_only_the_deployments_own_pods_reach_redis(cached: Endpoint) -> None:
    policies = Network(cached.cluster.list("networkpolicies", namespace=cached.namespace), {})
    server, store = Pod.of(cached.pod()), Pod.of(redis_pod(cached))
    assert policies.may_connect(server, store, PORT)
    assert not policies.may_connect(Pod("neighbour", cached.namespace), store, PORT)
    assert not policies.may_connect(store, server, 8000)
    assert not policies.may_connect(store, Outside("203.0.113.7"), 443)


def test_a_person_sees_what_is_kept_and_flushes_it(cached: Endpoint) -> None:
    hit(cached, "to be flushed")
    stats = wenxin(cached.cluster, "cache", "stats", cached.name, "-o", "json", namespace=cached.namespace)
    assert stats.returncode == 0, stats.stderr
    told = json.loads(stats.stdout)
    assert told["entries"] > 0
    assert told["requests"]["hit"] > 0
    assert told["memory"]["limit"] == 48 * 2**20
    flushed = wenxin(cached.cluster, "cache", "flush", cached.name, "--yes", namespace=cached.namespace)
    assert flushed.returncode == 0, flushed.stderr
    assert f"{told['entries']:,} answers of the model of cached flushed" in flushed.stdout
    with cached.client() as client:
        assert chat(client, "to be flushed")[0] == "miss"


@dataclass
class Asked:
    """What came of the questions so far."""

    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@contextmanager
def load(endpoint: Endpoint) -> Iterator[Asked]:
    """Ask the same few questions for as long as the block lasts; nothing is tried twice."""
    seen, over = Asked(), threading.Event()

    def ask(url: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
                    how, _ = chat(client, f"question {number % 5}")
            except httpx.HTTPError as error:
                seen.failures.append(repr(error))
            else:
                seen.counts[how] = seen.counts.get(how, 0) + 1

    with endpoint.url() as url:
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        try:
            yield seen
        finally:
            over.set()
            asking.join()


def test_redis_killed_under_load_fails_no_request_and_hits_come_back(cached: Endpoint) -> None:
    cluster, namespace = cached.cluster, cached.namespace
    before = redis_pod(cached)["metadata"]
    started = cached.pod()["metadata"]["uid"]
    with load(cached) as asked:
        cluster.wait(lambda: asked.counts.get("hit", 0) > 10, seconds=60, what="hits")
        cluster.kubectl("delete", f"pod/{before['name']}", "--force", "--grace-period=0", namespace=namespace)
        misses = asked.counts.get("miss", 0)
        cluster.wait(lambda: asked.counts.get("miss", 0) > misses, seconds=30, what="answers without Redis")
        hits = asked.counts["hit"]
        cluster.wait(lambda: asked.counts["hit"] > hits + 10, seconds=90, what="hits from the new Redis")
    assert asked.failures == []
    assert redis_pod(cached)["metadata"]["uid"] != before["uid"]
    assert cached.pod()["metadata"]["uid"] == started
    cache_ready(cached)


def test_a_new_password_reaches_redis_and_the_pods_without_a_restart_of_theirs(cached: Endpoint) -> None:
    cluster, namespace = cached.cluster, cached.namespace
    pod = cached.pod()["metadata"]["uid"]
    name = redis_pod(cached)["metadata"]["name"].removesuffix("-0")
    before = cluster.get(f"secret/{name}", namespace=namespace)["data"]["password"]
    cluster.kubectl("delete", f"secret/{name}", f"statefulset/{name}", namespace=namespace)
    cluster.wait(
        lambda: (found := cluster.find(f"secret/{name}", namespace=namespace)) and found["data"]["password"] != before,
        seconds=60,
        what="another password",
    )
    cached.ready()
    # The kubelet brings a changed Secret into running pods within about a minute.
    with cached.client() as client:
        cluster.wait(lambda: chat(client, "a new password")[0] == "hit", seconds=150, what="an answer from Redis")
    assert cached.pod()["metadata"]["uid"] == pod
