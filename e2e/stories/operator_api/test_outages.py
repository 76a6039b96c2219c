"""The API server away for a minute, connections that fall silent: the operator sees again, and puts things right."""

import os
from collections.abc import Iterator

import pytest

from e2e.stories.operator_api.copies import Copy, World
from e2e.stories.operator_api.links import Link
from e2e.stories.operator_api.worlds import claim, deployment

MINUTE = 60.0
CHILDREN = ("services", "serviceaccounts", "networkpolicies", "configmaps", "jobs", "wm")
AGE = "wenxin_operator_watch_age_seconds"


@pytest.fixture
def link(world: World) -> Iterator[Link]:
    with Link(world.plane) as whole:
        yield whole


def _uids(world: World) -> dict[tuple[str, str], str]:
    """What there is, by kind and name."""
    return {(kind, each["metadata"]["name"]): each["metadata"]["uid"] for kind in CHILDREN for each in world.list(kind)}


def _broke(copy: Copy) -> list[str]:
    """Lines of its log that no outage excuses."""
    return [line for line in copy.log.read_text().splitlines() if "Traceback" in line or '"level": "critical"' in line]


def _sees_again(copy: Copy) -> None:
    """Its metrics tell of the outage, and that it is over."""
    copy.wait(lambda: copy.answers("/readyz") and copy.metrics()[AGE] < MINUTE, "sight")
    assert copy.answers("/healthz"), "blind for a minute is no reason to be restarted"
    asked = "wenxin_operator_api_requests_total"
    assert copy.total(asked) > copy.total(asked, without='code="0"'), "requests without an answer are counted"


def test_a_minute_without_the_api_server_costs_nothing_but_the_minute(world: World, link: Link) -> None:
    account = str(link.kubeconfig(world.folder / "kubeconfig"))
    often = {"KUBECONFIG": account, "RESYNC_INTERVAL": "5s"}
    world.apply(claim(), deployment("kept"), deployment("robbed"))
    with world.operator("gave-up", **often) as first:
        first.wait(first.leads, "the lease")
        first.wait(lambda: world.get("networkpolicy", "kept") and world.get("networkpolicy", "robbed"), "the children")
        with world.operator("waited", **often) as second:
            second.wait(lambda: second.answers("/readyz"), "readiness without the lease")
            before = _uids(world)
            world.plane.stop_apiserver()
            link.cut()

            _, status = os.waitpid(first.process.pid, 0)
            assert os.waitstatus_to_exitcode(status) == 3, "it could not renew its lease, and says so"
            with world.operator("restarted", **often) as third:
                second.wait(lambda: second.metrics()[AGE] > MINUTE, "a minute", seconds=MINUTE + 30)
                world.plane.start_apiserver()
                assert _uids(world) == before, "nobody has deleted anything"
                world.plane.kubectl("delete", "service", "robbed")
                world.apply(deployment("new"))
                link.mend()

                third.wait(lambda: world.get("service", "robbed") and world.get("service", "new"), "what was missed")
                second.wait(lambda: second.leads() != third.leads(), "one of the two to lead")
                for copy in (second, third):
                    _sees_again(copy)
                after = _uids(world)
                assert [thing for thing in before if after.get(thing) != before[thing]] == [("services", "robbed")]
                assert [_broke(copy) for copy in (first, second, third)] == [[], [], []]


def test_connections_that_fall_silent_are_noticed_and_what_they_withheld_is_put_right(world: World, link: Link) -> None:
    world.apply(claim(), deployment("unseen"))
    settings = {"KUBECONFIG": str(link.kubeconfig(world.folder / "kubeconfig")), "REQUEST_TIMEOUT": "3s"}
    with world.operator("deaf", **settings, WATCH_SILENCE="4s", RESYNC_INTERVAL="10m", WATCH_AGE="1h") as copy:
        copy.wait(lambda: world.get("networkpolicy", "unseen"), "the children")
        copy.wait(copy.leads, "the lease")
        assert link.freeze() > 1, "watches and the lease's connection"
        world.plane.kubectl("delete", "service", "unseen")
        copy.wait(lambda: world.get("service", "unseen"), "the Service to come back")
        assert copy.leads(), "a lease whose connection is silent is renewed on another"
        assert not _broke(copy)
