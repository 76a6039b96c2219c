"""What happens to an engine process from outside."""

import signal

from e2e.harness.cluster import Object
from e2e.stories.endpoint import Endpoint

# Run in the container: `python3 -m MODULE` is what they all are started as.
_SIGNAL = """
import os, pathlib, sys
for found in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if found.read_bytes().split(bytes(1))[1:3] == [b"-m", sys.argv[1].encode()]:
        os.kill(int(found.parent.name), int(sys.argv[2]))
        print(found.parent.name)
"""


def signal_engine(endpoint: Endpoint, number: signal.Signals) -> None:
    """Send a signal to the engine of the endpoint's only pod."""
    _signal(endpoint, endpoint.pod(), "wenxin_runtime.engine", number)


def signal_follower(endpoint: Endpoint, number: signal.Signals, pod: Object | None = None) -> None:
    """Send a signal to the processes of a pod, by default the only one, that compute with an engine and do not lead."""
    _signal(endpoint, pod or endpoint.pod(), "wenxin_runtime.parallel.follower", number)


def _signal(endpoint: Endpoint, pod: Object, module: str, number: signal.Signals) -> None:
    name = pod["metadata"]["name"]
    hit = endpoint.cluster.exec(name, "python3", "-c", _SIGNAL, module, str(int(number)), namespace=endpoint.namespace)
    assert hit, f"no process of {module} was found"


def last_words(endpoint: Endpoint, before: Object | None = None) -> str:
    """Wait until a pod's container has been restarted, and give what it said when it ended.

    Args:
        endpoint: Whose pod.
        before: The pod as it was when it had not been restarted yet; by default the only one, never restarted.
    """
    name, restarts = (before["metadata"]["name"], _status(before)["restartCount"]) if before else (None, 0)

    def ended() -> Object:
        (pod,) = [pod for pod in endpoint.pods() if name in (None, pod["metadata"]["name"])]
        status = _status(pod)
        return status["lastState"] if status["restartCount"] > restarts else {}

    found = endpoint.cluster.wait(
        ended, seconds=60, what="the container to restart", about=endpoint.id, namespace=endpoint.namespace
    )
    return str(found["terminated"]["message"])


def _status(pod: Object) -> Object:
    (found,) = pod["status"].get("containerStatuses") or [{"restartCount": 0}]
    return dict(found)
