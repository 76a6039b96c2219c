"""Who may talk to a model pod, judged from the policies in the cluster: the local cluster's network enforces none."""

import dataclasses

import pytest

from e2e.harness.network_policy import Network, Outside, Pod
from e2e.stories.endpoint import Endpoint

PORT = 8000
NEIGHBOUR = Pod("neighbour", "default")
STRANGER = Pod("stranger", "strangers")
CLIENTS = {"friends": {"serving.wenxin.io/clients": "true"}}


@pytest.fixture
def network(tiny: Endpoint) -> Network:
    return Network(tiny.cluster.list("networkpolicies", namespace=tiny.namespace), CLIENTS)


@pytest.fixture
def served(tiny: Endpoint) -> Pod:
    return Pod.of(tiny.pod())


def test_the_evaluator_judges_a_policy_that_selects_the_pod(network: Network, served: Pod) -> None:
    assert served.ports["http"] == PORT
    assert len(network.policies) >= 1
    assert network.may_connect(STRANGER, served, PORT).reason != "no policy isolates"


def test_pods_of_the_same_namespace_may_ask(network: Network, served: Pod) -> None:
    assert network.may_connect(NEIGHBOUR, served, PORT)


def test_pods_of_a_namespace_that_is_labelled_as_a_client_may_ask(network: Network, served: Pod) -> None:
    assert network.may_connect(dataclasses.replace(STRANGER, namespace="friends"), served, PORT)


@pytest.mark.parametrize("stranger", [STRANGER, Outside("203.0.113.7")], ids=["another namespace", "outside"])
def test_strangers_may_not(network: Network, served: Pod, stranger: Pod | Outside) -> None:
    assert not network.may_connect(stranger, served, PORT)


def test_no_other_port_is_open_to_anybody(network: Network, served: Pod) -> None:
    assert not network.may_connect(NEIGHBOUR, served, 22)


def test_a_model_pod_opens_no_connection_itself(network: Network, served: Pod) -> None:
    assert not network.may_connect(served, Outside("203.0.113.7"), 443)
    assert not network.may_connect(served, NEIGHBOUR, 80)
