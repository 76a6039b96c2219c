"""The whole operator in this process, against the small API server: what several test modules start and wait for."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.contract.inspected import INSPECTED
from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator.names import LABEL_JOB_NAME, PERSISTENT_VOLUME_CLAIM, RESOURCES, WENXIN_DEPLOYMENT
from wenxin_operator.settings import Settings
from wenxin_operator.supervise import operate

QUICK = {
    "lease_duration": 30.0,
    "lease_renew_deadline": 20.0,
    "lease_retry_period": 0.05,
    "http_host": "127.0.0.1",
    "http_port": 0,
    "metrics_provider": "prometheus-adapter",  # so that there are autoscalers, and no API of ours to serve
}


def deployment(name: str = "ernie", **more: Any) -> dict[str, Any]:
    spec = {"model": {"source": "pvc://weights/ernie"}, "accelerator": {"resource": "none"}, **more}
    return {
        "apiVersion": RESOURCES[WENXIN_DEPLOYMENT].api_version,
        "kind": WENXIN_DEPLOYMENT,
        "metadata": {"namespace": "here", "name": name},
        "spec": spec,
    }


CLAIM = {
    "apiVersion": "v1",
    "kind": PERSISTENT_VOLUME_CLAIM,
    "metadata": {"namespace": "here", "name": "weights"},
    "spec": {"accessModes": ["ReadWriteOnce"]},
    "status": {"phase": "Bound"},
}


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - watches plain attributes
            await asyncio.sleep(0.01)


async def finish_inspection(api: FakeApi) -> None:
    """Do what the Job controller and the kubelet would."""
    (job,) = api.of("jobs")
    name, template = job["metadata"]["name"], job["spec"]["template"]["metadata"]["labels"]
    ended = {"state": {"terminated": {"exitCode": 0, "message": json.dumps(INSPECTED)}}}
    labels = {**template, LABEL_JOB_NAME: name, "app.kubernetes.io/managed-by": "wenxin-operator"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "here", "name": f"{name}-x", "labels": labels}}
    await api.put({**pod, "status": {"phase": "Succeeded", "containerStatuses": [ended]}})
    complete = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-01T00:00:00Z"}
    await api.put({**job, "apiVersion": "batch/v1", "kind": "Job", "status": {"conditions": [complete]}})


@asynccontextmanager
async def operating(kubeconfig: Path, **settings: Any) -> AsyncIterator[asyncio.Task[None]]:
    """A copy of the operator that must end cleanly at SIGTERM when the block ends."""
    made = Settings(kubeconfig=kubeconfig, lease_namespace="system", **{"identity": "me", **QUICK, **settings})
    task = asyncio.create_task(operate(made, {}))
    try:
        yield task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(15):
                await task


async def quiet(api: FakeApi) -> None:
    """Wait until nothing has been written for half a second."""
    async with asyncio.timeout(20):
        before = -1
        while before != len(api.writes()):
            before = len(api.writes())
            await asyncio.sleep(0.5)
