"""What stories ask for by name; `pytest_plugins = ["e2e.harness.fixtures"]` makes it known.

When a story fails, the report shows its namespace: pods, events, and the ends of the logs.
"""

import re
import secrets
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from e2e.harness import choice
from e2e.harness.cluster import Cluster
from e2e.harness.control_plane import ControlPlane

NAME_LENGTH = 40  # of the test's part of a namespace; the rest is for the suffix


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that `python -m e2e.harness test` brought up, with our images on its nodes."""
    backend = choice.backend()
    if not backend.running():
        pytest.exit("No cluster is up. Run the stories with: python -m e2e.harness test", returncode=4)
    return Cluster(backend)


@pytest.fixture
def namespace(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """A namespace for one story, named after it, under the restricted Pod Security Standard."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    name = f"{words[:NAME_LENGTH].strip('-')}-{secrets.token_hex(2)}"
    with cluster.namespace(name, labels={"pod-security.kubernetes.io/enforce": "restricted"}):
        yield name


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Etcd and an API server on loopback, one for the whole session."""
    with ControlPlane() as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """When a story failed, show its namespace while that still exists."""
    report = yield
    if report.when == "call" and report.failed and (shown := _explain(item)):
        report.sections.append(("namespace", shown))
    return report


def _explain(item: pytest.Item) -> str:
    values: dict[str, Any] = getattr(item, "funcargs", {})
    running, name = values.get("cluster"), values.get("namespace")
    return running.explain("", name) if isinstance(running, Cluster) and name else ""
