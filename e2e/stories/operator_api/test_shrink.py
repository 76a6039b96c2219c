"""Fewer replicas: whom the controller of ReplicaSets takes away when the operator has said how busy each pod is."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from e2e.harness.control_plane import ControlPlane
from e2e.stories.operator_api.conftest import CONTROLLERS
from e2e.stories.operator_api.copies import World, prepare
from e2e.stories.operator_api.nodes import Kubelets, add_node, bind_claim, is_ready
from e2e.stories.operator_api.worlds import deployment, finish_inspection

COST = "controller.kubernetes.io/pod-deletion-cost"
MODEL = "serving.wenxin.io/model"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A control plane with a node. Its pods stand in no EndpointSlice: none takes an address of this machine."""
    with ControlPlane(controllers=CONTROLLERS, scheduler=True) as plane:
        world = prepare(plane)
        add_node(world, "node1", gpus=0)
        bind_claim(world, "weights")
        yield world


@contextmanager
def pod_at(address: str, busy: dict[str, int]) -> Iterator[None]:
    """What a pod says at /load, as long as somebody says how busy it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if address in busy else 503)
            self.end_headers()
            words = {"waiting": 0, "running": busy.get(address, 0), "slots": 8, "queue_size": 100}
            self.wfile.write(json.dumps(words).encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with ThreadingHTTPServer((address, 8000), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def test_the_idlest_go_first_and_one_that_says_nothing_is_not_taken_for_idle(world: World) -> None:
    addresses = [f"127.8.0.{number}" for number in range(1, 6)]
    busy = dict(zip(addresses, (2, 9, 0, 1), strict=False))  # the fifth does not say
    kubelets = Kubelets(world, "shrunk", addresses=iter(addresses))
    with world.operator() as copy, ExitStack() as pods:
        for address in addresses:
            pods.enter_context(pod_at(address, busy))
        world.apply(deployment("shrunk", replicas=5))
        copy.wait(lambda: any(MODEL in pod["metadata"]["labels"] for pod in world.list("pods")), "the inspect pod")
        finish_inspection(world, "shrunk")

        def serving() -> list[str]:
            kubelets.turn()
            return sorted(pod["status"]["podIP"] for pod in kubelets.staying() if is_ready(pod))

        copy.wait(lambda: serving() == addresses, "five pods")
        costs = {}
        for replicas, stay in ((3, [0, 1, 4]), (2, [1, 4]), (1, [1])):
            if replicas == 1:
                busy[addresses[4]] = 1  # now it does
            world.plane.kubectl("scale", "wd/shrunk", f"--replicas={replicas}")
            expected = [addresses[number] for number in stay]
            copy.wait(lambda: serving() == expected, f"{expected} to stay")  # noqa: B023 - called at once
            for pod in kubelets.staying():
                costs[pod["status"]["podIP"]] = pod["metadata"]["annotations"].get(COST)
        assert costs[addresses[1]] == "9"
        assert costs[addresses[4]] == str(2**31 - 1), "as the shrink before the last left it"
        assert copy.refused() == []
