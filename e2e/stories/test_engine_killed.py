"""The engine dies in the middle of an answer: the client is told, and the pod is back without anybody's help."""

import signal

from e2e.stories.endpoint import Endpoint
from e2e.stories.engine import last_words, signal_engine
from e2e.stories.streams import streaming


def test_a_stream_ends_with_an_error_event_and_the_endpoint_recovers(tiny: Endpoint) -> None:
    name = tiny.pod()["metadata"]["name"]
    with tiny.client() as client, streaming(client, tiny.name, max_tokens=8000, choices=8) as stream:
        signal_engine(tiny, signal.SIGKILL)
        ending = stream.rest()
    assert ending.error, ending
    assert ending.error["message"]
    assert ending.finish_reason is None
    assert not ending.done

    words = last_words(tiny)
    tiny.ready()
    assert tiny.ask()
    assert tiny.pod()["metadata"]["name"] == name
    assert "EngineDied" in words
