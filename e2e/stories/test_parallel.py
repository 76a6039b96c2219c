"""One replica whose model is shared by two processes: it answers as one, and ends and comes back as one."""

import signal

import pytest

from e2e.harness.cluster import Cluster
from e2e.stories.endpoint import Endpoint, condition
from e2e.stories.engine import last_words, signal_follower
from e2e.stories.streams import streaming


@pytest.fixture(scope="module")
def shared(cluster: Cluster, checkpoints: str) -> Endpoint:
    manifest = {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinDeployment",
        "metadata": {"name": "shared"},
        "spec": {
            "model": {"source": "pvc://models/tiny"},
            "accelerator": {"resource": "none"},
            "parallelism": {"tensor": 2},
        },
    }
    cluster.apply(manifest, namespace=checkpoints)
    endpoint = Endpoint(cluster, manifest, checkpoints)
    endpoint.ready()
    return endpoint


def test_two_processes_answer_as_one(shared: Endpoint) -> None:
    assert "--tensor-parallel-size=2" in shared.flags()
    together = shared.ask(max_tokens=16)
    shared.apply(parallelism={"tensor": 1})
    shared.ready()
    assert shared.ask(max_tokens=16) == together
    shared.apply()
    shared.ready()


def test_a_size_that_does_not_divide_the_model_changes_nothing(shared: Endpoint) -> None:
    before = shared.pod()["metadata"]["uid"]
    shared.apply(parallelism={"tensor": 64})
    refused = shared.cluster.wait_condition(
        shared.id, "Accepted", status="False", namespace=shared.namespace, seconds=30
    )
    assert "spec.parallelism.tensor: 64 does not divide model shared" in condition(refused, "Accepted")["message"]
    assert shared.pod()["metadata"]["uid"] == before
    shared.apply()
    shared.ready()


def test_a_lost_rank_ends_the_group_with_its_number_and_the_group_comes_back(shared: Endpoint) -> None:
    with shared.client() as client, streaming(client, shared.name, max_tokens=8000, choices=8) as stream:
        signal_follower(shared, signal.SIGKILL)
        ending = stream.rest()
    assert ending.error, ending
    words = last_words(shared)
    assert "RankLost" in words
    assert "rank 1" in words
    shared.ready()
    assert shared.ask()
