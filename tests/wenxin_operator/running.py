"""The whole operator in this process, against the small API server: what several test modules start and wait for."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.wenxin_operator.fake_api import FakeApi
from wenxin_operator.names import PERSISTENT_VOLUME_CLAIM, RESOURCES, WENXIN_DEPLOYMENT
from wenxin_operator.settings import Settings
from wenxin_operator.supervise import operate

QUICK = {
    "lease_duration": 30.0,
    "lease_renew_deadline": 20.0,
    "lease_retry_period": 0.05,
    "http_host": "127.0.0.1",
    "http_port": 0,
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
