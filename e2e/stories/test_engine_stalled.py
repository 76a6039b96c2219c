"""The engine hangs in the middle of an answer: nothing has died, and still the pod is back without anybody's help."""

import signal

from e2e.stories.endpoint import Endpoint
from e2e.stories.engine import last_words, signal_engine
from e2e.stories.streams import streaming


def test_a_stream_of_a_hung_engine_ends_with_an_error_event_and_the_endpoint_recovers(tiny: Endpoint) -> None:
    tiny.apply(engine={"stallTimeout": "5s"})
    tiny.ready()
    name = tiny.pod()["metadata"]["name"]
    with tiny.client() as client, streaming(client, tiny.name, max_tokens=8000, choices=8) as stream:
        signal_engine(tiny, signal.SIGSTOP)
        ending = stream.rest()
    assert ending.error, ending
    assert "--engine-stall-timeout" in ending.error["message"]
    assert not ending.done

    words = last_words(tiny)
    tiny.ready()
    assert tiny.ask()
    assert tiny.pod()["metadata"]["name"] == name
    assert "EngineStalled" in words
