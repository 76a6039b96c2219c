"""Two copies on a real API server: one works, and the other takes over however the first one ends."""

import os
import signal

from e2e.stories.operator_api.copies import NAME, NAMESPACE, World
from e2e.stories.operator_api.worlds import claim, deployment


def holder(world: World) -> str:
    lease = world.get("lease", NAME, NAMESPACE)
    return str(lease["spec"].get("holderIdentity") or "") if lease else ""


def test_the_second_waits_watches_and_takes_over_when_the_first_is_killed(world: World) -> None:
    world.apply(claim())
    with world.operator("a") as first, world.operator("b") as second:
        first.wait(first.leads, "the lease")
        second.wait(lambda: second.answers("/readyz"), "readiness without the lease")
        world.apply(deployment("one"))
        first.wait(lambda: world.get("service", "one"), "the Service")
        assert second.total("wenxin_operator_reconcile_total") == 0
        assert second.total("wenxin_operator_writes_total", without="leases") == 0

        os.kill(first.process.pid, signal.SIGKILL)
        second.wait(second.leads, "the handover", seconds=20)
        world.plane.kubectl("delete", "service", "one")
        second.wait(lambda: world.get("service", "one"), "the Service to come back")


def test_a_clean_stop_hands_over_without_waiting_for_the_lease_to_expire(world: World) -> None:
    slow = {"LEASE_DURATION": "10m", "LEASE_RENEW_DEADLINE": "5m"}
    with world.operator("c", **slow) as second, world.operator("d", **slow) as first:
        second.wait(lambda: holder(world) in ("c", "d"), "a holder", seconds=30)
        winner, other = (second, first) if holder(world) == "c" else (first, second)
        winner.process.stop(grace=15)
        other.wait(other.leads, "the handover", seconds=10)


def test_a_copy_that_loses_its_lease_exits_with_code_3(world: World) -> None:
    with world.operator("e") as copy:
        copy.wait(copy.leads, "the lease")
        stolen = '{"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}'
        world.plane.kubectl("patch", "lease", NAME, "-n", NAMESPACE, "--type=merge", "-p", stolen)
        _, status = os.waitpid(copy.process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 3
        assert "thief holds it now" in copy.log.read_text()
    world.plane.kubectl("delete", "lease", NAME, "-n", NAMESPACE)
