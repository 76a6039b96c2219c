"""Everything at once, small and real: a model server with its Redis, the operator, load, and a Prometheus that scrapes.

Only Kubernetes is played: by the small API server of the operator's tests, and by us, who bring up the pods that the
operator asks for. `python -m tests.monitoring.rehearsal` goes on for minutes and draws the pictures of docs/.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench import fixtures
from bench.server_process import serving
from monitoring import generate, prometheus, targets
from monitoring.prometheus import Prometheus
from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.running import CLAIM, deployment, finish_inspection, operating, until
from tests.wenxin_runtime.server.answers.conftest import RedisServer
from wenxin_operator.names import ENDPOINT_SLICE, LABEL_REVISION, LABEL_SERVICE_NAME, POD, RESOURCES

NAMESPACE, NAME = "here", "ernie"
FLAGS = ("--device=cpu", "--cpu-threads=1", "--max-num-seqs=4", "--queue-size=8", "--max-model-len=512")
ASKING = 14  # more than slots and queue hold, so that some are turned away


@dataclass
class Rehearsal:
    """What is up."""

    servers: dict[str, str]
    prometheus: Prometheus
    api: FakeApi

    async def ask(self, expression: str) -> list[prometheus.Series]:
        """Query without holding up the operator, which runs on this loop."""
        return await asyncio.to_thread(self.prometheus.query, expression)

    async def until(self, expression: str, *, seconds: float = 90) -> None:
        """Wait until a query has an answer."""
        async with asyncio.timeout(seconds):
            while not await self.ask(expression):  # noqa: ASYNC110 - another process is watched
                await asyncio.sleep(0.2)

    @contextlib.asynccontextmanager
    async def load(self, *, asking: int = ASKING) -> AsyncIterator[None]:
        """Ask all servers, many at the same time, for the length of the block."""
        tasks = [
            asyncio.create_task(_client(url, number))
            for url, number in itertools.product(self.servers.values(), range(asking))
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def rehearse(directory: Path, *, pods: int = 1, scrape: str = "500ms") -> AsyncIterator[Rehearsal]:
    """Bring it all up; every target has been scraped once when the block begins."""
    redis = RedisServer(directory)
    async with contextlib.AsyncExitStack() as stack:
        redis.start()
        stack.callback(redis.stop)
        api = await stack.enter_async_context(FakeApi())
        port = await _operator(api, directory, stack, pods)
        servers = await asyncio.to_thread(lambda: stack.enter_context(_servers(directory, redis.url, pods)))
        found = next(pod for pod in api.of("pods") if LABEL_REVISION in pod["metadata"]["labels"])
        config = {
            "global": {"scrape_interval": scrape, "evaluation_interval": scrape},
            "scrape_configs": _jobs(servers, port, found["metadata"]["labels"][LABEL_REVISION]),
        }
        rules = sorted((generate.CHART / "alerts").glob("*.yaml"))
        scraping = await asyncio.to_thread(lambda: stack.enter_context(prometheus.running(directory, config, rules)))
        running = Rehearsal(servers, scraping, api)
        await running.until(f"count(up == 1) == {pods + 1}")
        yield running


def _jobs(servers: dict[str, str], port: int, revision: str) -> list[dict[str, Any]]:
    models = [
        targets.RUNTIME.at(
            url.removeprefix("http://"), namespace=NAMESPACE, pod=pod, deployment=NAME, revision=revision
        )
        for pod, url in servers.items()
    ]
    operator = targets.OPERATOR.at(f"127.0.0.1:{port}", namespace="wenxin-system", pod="wenxin-operator-0")
    return targets.fixed((targets.RUNTIME, models), (targets.OPERATOR, [operator]))


@contextlib.contextmanager
def _servers(directory: Path, redis: str, pods: int) -> Iterator[dict[str, str]]:
    model = fixtures.write_model(directory / "model", "tiny", dtype="float32")
    with contextlib.ExitStack() as stack:
        flags = (*FLAGS, f"--redis-url={redis}", f"--served-model-name={NAME}")
        yield {
            f"{NAME}-{number}": stack.enter_context(serving(model, directory / f"log-{number}", *flags))
            for number in range(pods)
        }


async def _operator(api: FakeApi, directory: Path, stack: contextlib.AsyncExitStack, pods: int) -> int:
    """Start the operator and play the cluster until its deployment is Ready; returns the port of its metrics."""
    kubeconfig = directory / "kubeconfig"
    context = {"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}]}
    cluster = {"clusters": [{"name": "c", "cluster": {"server": api.url}}], "users": [{"name": "u", "user": {}}]}
    kubeconfig.write_text(yaml.safe_dump(context | cluster))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    await api.put(CLAIM)
    await api.put(deployment(NAME, replicas=pods))
    settings = {"http_port": port, "resync_interval": 5.0, "lease_retry_period": 1.0}
    await stack.enter_async_context(operating(kubeconfig, **settings))
    await until(lambda: api.of("jobs"))
    await finish_inspection(api)
    await until(lambda: api.of("deployments"))
    await _bring_up_pods(api, pods)
    await until(lambda: _is_ready(api))
    return port


def _is_ready(api: FakeApi) -> bool:
    (resource,) = api.of("wenxindeployments")
    stated = resource.get("status", {}).get("conditions", [])
    return any((each["type"], each["status"]) == ("Ready", "True") for each in stated)


async def _bring_up_pods(api: FakeApi, pods: int) -> None:
    """Do what the controllers of Deployments and EndpointSlices, and the kubelet, would."""
    (workload,), (service,) = api.of("deployments"), api.of("services")
    for number in range(pods):
        metadata = {**workload["spec"]["template"]["metadata"], "namespace": NAMESPACE, "name": f"{NAME}-{number}"}
        owner = {"ownerReferences": [{"uid": workload["metadata"]["uid"]}]}
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await api.put({"apiVersion": "v1", "kind": POD, "metadata": {**metadata, **owner}, "status": status})
    metadata = {
        "namespace": NAMESPACE,
        "name": f"{NAME}-slice",
        "labels": service["metadata"]["labels"] | {LABEL_SERVICE_NAME: NAME},
        "ownerReferences": [{"uid": service["metadata"]["uid"]}],
    }
    endpoints = [
        {"conditions": {"ready": True}, "targetRef": {"kind": POD, "name": f"{NAME}-{number}"}}
        for number in range(pods)
    ]
    kind = {"apiVersion": RESOURCES[ENDPOINT_SLICE].api_version, "kind": ENDPOINT_SLICE}
    await api.put({**kind, "metadata": metadata, "endpoints": endpoints})


async def _client(url: str, number: int) -> None:
    """Ask without end: prompts that come again, new ones, streams, some that leave, some that may not be cached."""
    dice = random.Random(number)
    shared = [fixtures.prompt(random.Random(seed), 1500, 48) for seed in range(20)]
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        while True:
            prompt = shared[min(int(dice.expovariate(0.25)), 19)]
            if dice.random() < 0.5:
                prompt = (*prompt[:32], *fixtures.prompt(dice, 1500, dice.randrange(8, 64)))
            body = {"model": NAME, "prompt": prompt, "max_tokens": dice.randrange(8, 40), "ignore_eos": True}
            with contextlib.suppress(httpx.TransportError):
                await _ask_once(client, dice, body)
            await asyncio.sleep(dice.random() * 0.2)


async def _ask_once(client: httpx.AsyncClient, dice: random.Random, body: dict[str, Any]) -> None:
    headers = {"Cache-Control": "no-store"} if dice.random() < 0.1 else {}
    if dice.random() < 0.05:
        body["max_tokens"] = -1  # a mistake of the client's
    async with client.stream("POST", "/v1/completions", json={**body, "stream": True}, headers=headers) as answer:
        leaves = dice.random() < 0.1
        async for _ in answer.aiter_lines():
            if leaves:
                break


def main(arguments: Sequence[str] | None = None) -> None:
    """Run for a while under load that comes and goes, then draw every dashboard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--into", type=Path, default=Path("docs/images"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wenxin-rehearsal-") as directory:
        asyncio.run(_long(Path(directory), options.minutes, options.into))


async def _long(directory: Path, minutes: float, into: Path) -> None:
    from monitoring import draw

    async with rehearse(directory, pods=2, scrape="2s") as running:
        *parts, last = (2, 5, 9, 3)
        for asking in parts:
            async with running.load(asking=asking):
                await asyncio.sleep(minutes * 60 / (len(parts) + 1))
        arguments = ["--prometheus", running.prometheus.url, "--minutes", str(minutes), "--into", str(into)]
        async with running.load(asking=last):
            await asyncio.sleep(minutes * 60 / (len(parts) + 1))
            await asyncio.to_thread(draw.main, arguments)


if __name__ == "__main__":
    main()
