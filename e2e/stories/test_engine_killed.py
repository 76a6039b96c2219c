"""The engine dies in the middle of an answer: the client is told, and the pod is back without anybody's help."""

from e2e.stories.endpoint import Endpoint
from e2e.stories.streams import streaming

# Run in the container: the server is process 1, the engine its only child.
KILL_ENGINE = """
import os, pathlib, signal
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    fields = dict(line.split(":\\t", 1) for line in status.read_text().splitlines() if ":\\t" in line)
    if fields["PPid"] == "1":
        os.kill(int(fields["Pid"]), signal.SIGKILL)
        print(fields["Name"])
"""


def test_a_stream_ends_with_an_error_event_and_the_endpoint_recovers(tiny: Endpoint) -> None:
    name = tiny.pod()["metadata"]["name"]
    with tiny.client() as client, streaming(client, tiny.name, max_tokens=8000) as stream:
        killed = tiny.cluster.exec(name, "python3", "-c", KILL_ENGINE, namespace=tiny.namespace)
        ending = stream.rest()
    assert killed, "no engine process was found"
    assert ending.error, ending
    assert ending.error["message"]
    assert ending.finish_reason is None
    assert not ending.done

    tiny.cluster.wait(lambda: _restarts(tiny) >= 1, seconds=30, what="the container to restart", about=tiny.id)
    tiny.ready()
    assert tiny.ask()
    assert tiny.pod()["metadata"]["name"] == name
    assert "EngineDied" in tiny.pod()["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"]


def _restarts(endpoint: Endpoint) -> int:
    statuses = endpoint.pod()["status"].get("containerStatuses") or [{"restartCount": 0}]
    return int(statuses[0]["restartCount"])
