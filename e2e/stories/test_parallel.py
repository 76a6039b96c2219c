"""One replica whose model is shared by several processes: it answers as one, and ends and comes back as one."""

import signal

import pytest

from e2e.harness.cluster import Cluster, Object
from e2e.stories.endpoint import Endpoint, condition
from e2e.stories.engine import last_words, signal_follower
from e2e.stories.streams import streaming


def manifest(name: str, model: str, **parallelism: object) -> Object:
    spec = {
        "model": {"source": f"pvc://models/{model}"},
        "accelerator": {"resource": "none"},
        "parallelism": parallelism,
    }
    return {
        "apiVersion": "serving.wenxin.io/v1alpha1",
        "kind": "WenxinDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def shared(cluster: Cluster, checkpoints: str) -> Endpoint:
    endpoint = Endpoint(cluster, manifest("shared", "tiny", tensor=2), checkpoints)
    endpoint.apply()
    endpoint.ready()
    return endpoint


def test_two_processes_answer_as_one(shared: Endpoint, tiny: Endpoint) -> None:
    assert "--tensor-parallel-size=2" in shared.flags()
    assert shared.get()["status"]["model"]["digest"] == tiny.get()["status"]["model"]["digest"]
    assert shared.ask(max_tokens=16) == tiny.ask(max_tokens=16)


def test_experts_that_two_groups_of_one_pod_share_answer_as_those_of_one_process(
    cluster: Cluster, checkpoints: str
) -> None:
    experts = Endpoint(cluster, manifest("experts", "tiny-moe", data=2, expert=True), checkpoints)
    experts.apply(parallelism={"data": 1, "expert": False})
    experts.ready()
    alone = experts.ask(max_tokens=16)
    experts.apply()
    experts.ready()
    flags = experts.flags().split()
    assert {"--data-parallel-size=2", "--enable-expert-parallel"} <= set(flags)
    assert [experts.ask(max_tokens=16) for _ in range(4)] == 4 * [alone]  # of whichever group
    cluster.delete(experts.id, namespace=checkpoints)


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
