"""A node loses a pod without a word: the stream breaks off, a new pod comes, the next request is answered."""

from e2e.stories.endpoint import Endpoint
from e2e.stories.streams import streaming


def test_a_stream_of_a_pod_that_vanishes_ends_without_done_and_the_next_request_succeeds(tiny: Endpoint) -> None:
    pod = tiny.pod()["metadata"]
    with tiny.client() as client, streaming(client, tiny.name, max_tokens=8000) as stream:
        tiny.cluster.kubectl("delete", f"pod/{pod['name']}", "--force", "--grace-period=0", namespace=tiny.namespace)
        ending = stream.rest()
    assert not ending.done, ending
    assert ending.finish_reason is None

    tiny.cluster.wait(
        lambda: {each["metadata"]["uid"] for each in tiny.pods()} - {pod["uid"]}, seconds=60, what="another pod"
    )
    tiny.ready()
    assert tiny.ask()
