"""The operator is killed at the worst moment: the next copy finishes the work."""

from e2e.stories.endpoint import Endpoint
from e2e.stories.installation import Operator


def test_killed_in_the_middle_of_a_rollout_the_rollout_is_finished_by_the_next_copy(
    operator: Operator, tiny: Endpoint
) -> None:
    old = tiny.pod()["metadata"]["uid"]
    tiny.apply(engine={"queueSize": 51})
    tiny.cluster.wait(
        lambda: {pod["metadata"]["uid"] for pod in tiny.pods()} - {old},
        seconds=60,
        what="the first pod of the new revision",
        about=tiny.id,
        namespace=tiny.namespace,
    )
    operator.kill()

    tiny.ready()
    tiny.answers_with(queue_size=51)
    tiny.cluster.wait(
        lambda: len([name for name in tiny.children() if name.startswith("ConfigMap/")]) == 1,
        seconds=60,
        what="the old ConfigMap to go",
        namespace=tiny.namespace,
    )


def test_a_change_made_while_it_was_down_is_carried_out_when_it_returns(operator: Operator, tiny: Endpoint) -> None:
    with operator.down():
        tiny.apply(engine={"queueSize": 52})
        tiny.cluster.delete(f"networkpolicy/{tiny.name}", namespace=tiny.namespace)
    tiny.ready()
    tiny.answers_with(queue_size=52)
    assert tiny.child("NetworkPolicy")
