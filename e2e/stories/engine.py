"""What happens to an engine process from outside."""

import signal

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
    _signal(endpoint, "wenxin_runtime.engine", number)


def signal_follower(endpoint: Endpoint, number: signal.Signals) -> None:
    """Send a signal to the processes that share the model with the engine of the endpoint's only pod."""
    _signal(endpoint, "wenxin_runtime.parallel.follower", number)


def _signal(endpoint: Endpoint, module: str, number: signal.Signals) -> None:
    pod = endpoint.pod()["metadata"]["name"]
    hit = endpoint.cluster.exec(pod, "python3", "-c", _SIGNAL, module, str(int(number)), namespace=endpoint.namespace)
    assert hit, f"no process of {module} was found"


def last_words(endpoint: Endpoint) -> str:
    """Wait until the only pod's container has been restarted, and give what it said when it ended."""

    def status() -> dict[str, object]:
        (found,) = endpoint.pod()["status"].get("containerStatuses") or [{"restartCount": 0}]
        return dict(found)

    endpoint.cluster.wait(
        lambda: int(str(status()["restartCount"])) >= 1, seconds=30, what="the container to restart", about=endpoint.id
    )
    return str(endpoint.pod()["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"])
