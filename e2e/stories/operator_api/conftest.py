"""One control plane with the controllers that the stories need, and no node."""

from collections.abc import Iterator

import pytest

from e2e.harness.control_plane import ControlPlane
from e2e.stories.operator_api.copies import World, prepare

CONTROLLERS = (
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "serviceaccount-controller",
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A fresh control plane where the chart's service account may work in the whole cluster."""
    with ControlPlane(controllers=CONTROLLERS) as plane:
        yield prepare(plane)
