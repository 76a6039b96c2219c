"""One replica of two pods on two nodes: it answers as one process does, and it comes, serves, ends and goes as one."""

import signal
from collections.abc import Callable

import pytest

from e2e.harness.cluster import Cluster, Object
from e2e.harness.network_policy import Network, Pod
from e2e.stories.endpoint import Endpoint
from e2e.stories.engine import last_words, signal_follower
from e2e.stories.streams import streaming
from e2e.stories.traffic import traffic

GROUP = "serving.wenxin.io/group"
NUMBER = "apps.kubernetes.io/pod-index"
APART = {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
MASTER_PORT = 29500
MANIFEST: Object = {
    "apiVersion": "serving.wenxin.io/v1alpha1",
    "kind": "WenxinDeployment",
    "metadata": {"name": "pair"},
    "spec": {
        "model": {"source": "pvc://models/tiny"},
        "accelerator": {"resource": "none"},
        "parallelism": {"tensor": 2, "nodes": 2},
        "pod": {"topologySpreadConstraints": [APART]},
    },
}


@pytest.fixture(scope="module")
def group(cluster: Cluster, checkpoints_on_every_node: str) -> Endpoint:
    if len(cluster.list("nodes")) == 1:
        pytest.skip("this cluster has one node: python -m e2e.harness down, then test")
    endpoint = Endpoint(cluster, MANIFEST, checkpoints_on_every_node)
    endpoint.apply()
    endpoint.ready()
    return endpoint


def members(endpoint: Endpoint) -> tuple[Object, Object]:
    """The leader and the worker of the only group."""
    leader, worker = sorted(endpoint.pods(), key=lambda pod: str(pod["metadata"]["labels"][NUMBER]))
    return leader, worker


def test_two_pods_on_two_nodes_answer_as_one_process_does(group: Endpoint, tiny: Endpoint) -> None:
    leader, worker = members(group)
    assert leader["spec"]["nodeName"] != worker["spec"]["nodeName"]
    assert group.get()["status"]["model"]["digest"] == tiny.get()["status"]["model"]["digest"]
    assert group.ask(max_tokens=16) == tiny.ask(max_tokens=16)


def test_only_the_leader_is_asked_and_counted(group: Endpoint) -> None:
    leader, _ = members(group)
    slices = group.cluster.list(
        "endpointslices", namespace=group.namespace, selector=f"kubernetes.io/service-name={group.name}"
    )
    asked = [endpoint["targetRef"]["name"] for each in slices for endpoint in each["endpoints"] or ()]
    assert asked == [leader["metadata"]["name"]]

    status = group.get()["status"]
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    counted = group.cluster.list("pods", namespace=group.namespace, selector=status["selector"])
    assert [pod["metadata"]["name"] for pod in counted] == asked


def test_the_pods_of_a_group_may_talk_to_each_other_and_to_no_stranger(group: Endpoint) -> None:
    policies = Network(group.cluster.list("networkpolicies", namespace=group.namespace), {})
    leader, worker = map(Pod.of, members(group))
    assert policies.may_connect(worker, leader, MASTER_PORT)
    assert policies.may_connect(leader, worker, MASTER_PORT)
    assert not policies.may_connect(Pod("neighbour", group.namespace), leader, MASTER_PORT)
    assert not policies.may_connect(worker, Pod("neighbour", group.namespace), MASTER_PORT)


def vanish(endpoint: Endpoint, worker: Object) -> None:
    """A node loses a pod without a word."""
    pod = f"pod/{worker['metadata']['name']}"
    endpoint.cluster.kubectl("delete", pod, "--force", "--grace-period=0", namespace=endpoint.namespace)


def end(endpoint: Endpoint, worker: Object) -> None:
    """The rank's process ends: the kernel's doing, or a GPU's."""
    signal_follower(endpoint, signal.SIGKILL, worker)


def hang(endpoint: Endpoint, worker: Object) -> None:
    """The rank's process is there, and silent."""
    signal_follower(endpoint, signal.SIGSTOP, worker)


def ends_and_comes_back(endpoint: Endpoint, lose: Callable[[Endpoint, Object], None]) -> None:
    """A rank is lost in the middle of an answer: the answer ends at once, the reason is told, the group is back."""
    leader, worker = members(endpoint)
    with endpoint.client() as client, streaming(client, endpoint.name, max_tokens=8000, choices=8) as stream:
        lose(endpoint, worker)
        ending = stream.rest()
    assert ending.error, ending
    assert "rank 1" in ending.error["message"]
    assert not ending.done

    words = last_words(endpoint, leader)
    assert "RankLost" in words
    assert "rank 1" in words
    endpoint.ready()
    assert endpoint.ask()
    assert members(endpoint)[0]["metadata"]["uid"] == leader["metadata"]["uid"]


@pytest.mark.parametrize("lose", [vanish, end])
def test_a_lost_rank_ends_its_group_with_a_reason_and_the_group_comes_back_as_one(
    group: Endpoint, lose: Callable[[Endpoint, Object], None]
) -> None:
    ends_and_comes_back(group, lose)


def test_what_was_lost_is_told_in_an_event_of_the_deployment(group: Endpoint) -> None:
    events = group.cluster.list("events", namespace=group.namespace)
    told = [event for event in events if event["involvedObject"]["name"] == group.name]
    assert [event for event in told if event["reason"] == "RankLost" and "rank 1" in event["message"]], told


def test_no_request_fails_while_a_group_takes_the_place_of_another(group: Endpoint) -> None:
    (before,) = {pod["metadata"]["labels"][GROUP] for pod in group.pods()}
    with traffic(group) as seen:
        group.apply(engine={"maxNumSeqs": 6})
        group.ready()
        group.answers_with(slots=6)
    assert seen.failures == []
    assert seen.answered > 0
    group.cluster.wait(lambda: len(group.pods()) == 2, seconds=60, what="two pods", namespace=group.namespace)
    assert before not in {pod["metadata"]["labels"][GROUP] for pod in group.pods()}


def test_replicas_are_groups(group: Endpoint) -> None:
    group.cluster.kubectl("scale", f"wd/{group.name}", "--replicas=2", namespace=group.namespace)
    status = group.ready()["status"]
    assert (status["replicas"], status["readyReplicas"], len(group.pods())) == (2, 2, 4)

    group.cluster.kubectl("scale", f"wd/{group.name}", "--replicas=1", namespace=group.namespace)
    # The younger group goes, and answers as long as kube-proxy sends it requests: the next story wants the other.
    group.cluster.wait(
        lambda: len(group.cluster.list("pods", namespace=group.namespace, selector=group.selector)) == 2,
        seconds=120,
        what="the pods of the other group to be gone",
        namespace=group.namespace,
    )
    assert len({pod["metadata"]["labels"][GROUP] for pod in group.pods()}) == 1
    group.ready()
    assert group.ask()


def test_a_hung_rank_ends_its_group_too(group: Endpoint) -> None:
    ends_and_comes_back(group, hang)


def test_when_one_node_is_drained_the_whole_group_finishes_its_answers_and_comes_back(group: Endpoint) -> None:
    _, worker = members(group)
    with group.client() as client, streaming(client, group.name, max_tokens=group.tokens_in(seconds=6)) as stream:
        group.cluster.delete(f"pod/{worker['metadata']['name']}", namespace=group.namespace)
        ending = stream.rest()
    assert ending.done, ending
    assert ending.finish_reason == "length"

    def replaced() -> bool:
        uids = [pod["metadata"]["uid"] for pod in group.pods()]
        return len(uids) == 2 and worker["metadata"]["uid"] not in uids

    group.cluster.wait(replaced, seconds=60, what="another worker", about=group.id, namespace=group.namespace)
    group.ready()
    assert group.ask()


def test_a_deleted_group_finishes_its_answers_and_is_gone_long_before_its_grace_period(group: Endpoint) -> None:
    assert all(pod["spec"]["terminationGracePeriodSeconds"] >= 300 for pod in group.pods())
    with group.client() as client, streaming(client, group.name, max_tokens=group.tokens_in(seconds=6)) as stream:
        group.cluster.delete(group.id, namespace=group.namespace)
        ending = stream.rest()
    assert ending.done, ending
    group.cluster.wait(
        lambda: not group.cluster.list("pods", namespace=group.namespace, selector=group.selector),
        seconds=60,
        what="both pods to go",
        namespace=group.namespace,
    )
    assert "StatefulSet" not in {name.split("/")[0] for name in group.children()}
