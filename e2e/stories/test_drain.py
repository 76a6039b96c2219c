"""A pod is told to go (an upgrade, a drained node): what it has accepted is finished first."""

from e2e.stories.endpoint import Endpoint
from e2e.stories.streams import streaming


def test_a_running_stream_is_finished_to_its_last_token_when_its_pod_is_deleted(tiny: Endpoint) -> None:
    pod = tiny.pod()["metadata"]
    tokens = tiny.tokens_in(seconds=6)  # longer than it takes to delete a pod, shorter than spec.drain.timeout
    with tiny.client() as client, streaming(client, tiny.name, max_tokens=tokens) as stream:
        tiny.cluster.delete(f"pod/{pod['name']}", namespace=tiny.namespace)
        ending = stream.rest()
    assert ending.done, ending
    assert ending.finish_reason == "length"
    assert ending.error is None
    tiny.cluster.wait_gone(f"pod/{pod['name']}", namespace=tiny.namespace)
    tiny.ready()
    assert tiny.ask()
