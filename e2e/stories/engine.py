"""What happens to an engine process from outside."""

import signal

from e2e.stories.endpoint import Endpoint

# Run in the container: the server is process 1, the engine its only child.
_SIGNAL = """
import os, pathlib, sys
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    fields = dict(line.split(":\\t", 1) for line in status.read_text().splitlines() if ":\\t" in line)
    if fields["PPid"] == "1":
        os.kill(int(fields["Pid"]), int(sys.argv[1]))
        print(fields["Name"])
"""


def signal_engine(endpoint: Endpoint, number: signal.Signals) -> None:
    """Send a signal to the engine of the endpoint's only pod."""
    pod = endpoint.pod()["metadata"]["name"]
    hit = endpoint.cluster.exec(pod, "python3", "-c", _SIGNAL, str(int(number)), namespace=endpoint.namespace)
    assert hit, "no engine process was found"


def last_words(endpoint: Endpoint) -> str:
    """Wait until the only pod's container has been restarted, and give what it said when it ended."""

    def status() -> dict[str, object]:
        (found,) = endpoint.pod()["status"].get("containerStatuses") or [{"restartCount": 0}]
        return dict(found)

    endpoint.cluster.wait(
        lambda: int(str(status()["restartCount"])) >= 1, seconds=30, what="the container to restart", about=endpoint.id
    )
    return str(endpoint.pod()["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"])
