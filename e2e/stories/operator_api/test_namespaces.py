"""An operator that may work in one namespace only, on a real API server."""

from collections.abc import Iterator

import pytest

from e2e.harness.control_plane import ControlPlane
from e2e.stories.operator_api.copies import World, prepare
from e2e.stories.operator_api.worlds import claim, deployment


@pytest.fixture(scope="module")
def narrow() -> Iterator[World]:
    """The chart's service account may work in namespace `team` and nowhere else."""
    with ControlPlane() as plane:
        yield prepare(plane, watch=("team",))


def test_it_serves_its_namespace_and_never_asks_for_another(narrow: World) -> None:
    with narrow.operator(WATCH_NAMESPACES="team") as copy:
        narrow.apply(claim("team"), deployment("ours", "team"), claim("default"), deployment("theirs", "default"))
        copy.wait(lambda: narrow.get("service", "ours", "team"), "the Service")
        assert not narrow.get("service", "theirs")
        assert "status" not in (narrow.get("wd", "theirs") or {})
        assert not copy.refused()


def test_without_the_rights_for_the_whole_cluster_it_says_what_is_missing_and_is_not_ready(narrow: World) -> None:
    with narrow.operator() as copy:
        copy.wait(lambda: "does the chart's RBAC cover this namespace?" in copy.log.read_text(), "a hint")
        assert not copy.answers("/readyz")
        assert copy.answers("/healthz")
