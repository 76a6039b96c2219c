"""What the stories share: one cluster, one installed operator, one tiny endpoint, one claim with checkpoints."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from e2e.harness import demo
from e2e.harness.cluster import Cluster
from e2e.stories import checkpoints as written
from e2e.stories.endpoint import Endpoint
from e2e.stories.installation import Operator

pytest_plugins = ["e2e.harness.fixtures"]

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
PLACE = "default"


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> Operator:
    """The chart, installed as a user would, into a namespace that enforces the restricted standard."""
    for name in (demo.NAMESPACE, PLACE):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    demo.install(cluster, "resyncInterval=5s")  # three resyncs are what a story about rest waits for
    return Operator(cluster)


@pytest.fixture(scope="module")
def checkpoints(operator: Operator, cluster: Cluster) -> Iterator[str]:
    """A namespace with the claim `models`: the folders `tiny` and `tiny-moe`, and folders with one thing wrong each.

    It goes with its module: as long as a wrong model exists, the operator tries it again now and then.
    """
    del operator  # first, so that its CRDs are there
    with _claim(cluster, "ReadWriteOnce") as namespace:
        yield namespace


@pytest.fixture(scope="module")
def checkpoints_on_every_node(operator: Operator, cluster: Cluster) -> Iterator[str]:
    """The same, for pods of several nodes at a time."""
    del operator
    if not cluster.backend.shares_volumes:
        pytest.skip("this cluster's default StorageClass makes no ReadWriteMany volumes")
    with _claim(cluster, "ReadWriteMany") as namespace:
        yield namespace


@contextmanager
def _claim(cluster: Cluster, access: str) -> Iterator[str]:
    with cluster.namespace(f"checkpoints-{secrets.token_hex(2)}", labels=RESTRICTED) as name:
        cluster.apply(written.manifests(access), namespace=name)
        cluster.wait_condition("job/write-checkpoints", "Complete", namespace=name)
        yield name


@pytest.fixture(scope="session")
def tiny_of_this_session(operator: Operator, cluster: Cluster) -> Endpoint:
    """The deployment of examples/tiny.yaml; pods that an earlier session left, of an older image, are gone."""
    del operator
    manifests = yaml.safe_load_all(demo.EXAMPLE.read_text())
    (manifest,) = [each for each in manifests if each["kind"] == "WenxinDeployment"]
    endpoint = Endpoint(cluster, manifest, PLACE)
    cluster.delete(endpoint.id, namespace=PLACE)
    cluster.wait(lambda: not endpoint.pods(), seconds=60, what="an earlier session's pods to go", namespace=PLACE)
    return endpoint


@pytest.fixture
def tiny(tiny_of_this_session: Endpoint, cluster: Cluster) -> Endpoint:
    """examples/tiny.yaml, Ready, as it is written, whatever the story before did to it."""
    cluster.apply(demo.EXAMPLE, namespace=PLACE)
    tiny_of_this_session.ready()
    return tiny_of_this_session
