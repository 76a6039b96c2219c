"""Half an hour of a busy day, compressed: mixed load, clients that leave, requests that make no sense."""

import asyncio
import copy
import json
import os
from collections.abc import Iterator

import pytest

from e2e.harness.cluster import Cluster
from e2e.stories.endpoint import Endpoint
from e2e.stories.soak import Process, Soak, run

CONTEXT = 2048
WARM_UP_SECONDS = 20.0
# Five minutes in all. A shorter one, while a story is written: WENXIN_SOAK_SECONDS=60.
SECONDS = float(os.environ.get("WENXIN_SOAK_SECONDS", "280"))
# The server's own default, --max-request-bytes.
BODY_LIMIT = 16 * 2**20
# A leak of time is one that grows with the requests served; what two cores do beside each other is below this.
MOST_SLOWDOWN = 3.0

# Run in the container: the server is process 1, the engine its only child.
_LOOK = """
import json, os, pathlib
def look(pid):
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(fields["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/fd"))]
(engine,) = pathlib.Path("/proc/1/task/1/children").read_text().split()
print(json.dumps({"server": look(1), "engine": look(engine)}))
"""


@pytest.fixture
def busy(tiny: Endpoint, cluster: Cluster) -> Iterator[Endpoint]:
    """A deployment beside examples/tiny.yaml, of the same weights, with few places and small steps."""
    manifest = copy.deepcopy(tiny.manifest)
    manifest["metadata"]["name"] = "busy"
    endpoint = Endpoint(cluster, manifest, tiny.namespace)
    endpoint.apply(maxModelLen=CONTEXT, engine={"maxNumSeqs": 8, "queueSize": 12, "maxBatchedTokens": 128})
    try:
        endpoint.ready()
        yield endpoint
    finally:
        cluster.delete(endpoint.id, namespace=endpoint.namespace)


@pytest.mark.timeout(900)
def test_a_busy_day_loses_no_request_leaks_nothing_and_ends_as_fast_as_it_began(busy: Endpoint) -> None:
    pod = busy.pod()["metadata"]["name"]

    def processes() -> dict[str, Process]:
        found = json.loads(busy.cluster.exec(pod, "python3", "-c", _LOOK, namespace=busy.namespace))
        return {name: Process(*numbers) for name, numbers in found.items()}

    with busy.url() as url:
        report = asyncio.run(
            run(
                Soak(
                    url=url,
                    model="busy",
                    context=CONTEXT,
                    body_limit=BODY_LIMIT,
                    clients=12,
                    warm_up=WARM_UP_SECONDS,
                    seconds=SECONDS,
                    processes=processes,
                )
            )
        )
    print(report.summary())
    report.check()
    assert report.slowdown() < MOST_SLOWDOWN, report.summary()
    log = busy.cluster.logs(pod, namespace=busy.namespace)
    assert " ERROR " not in log
    assert "Traceback" not in log
    (status,) = busy.pod()["status"]["containerStatuses"]
    assert status["restartCount"] == 0
