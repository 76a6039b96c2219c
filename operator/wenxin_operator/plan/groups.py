"""Which groups of pods there should be: the rollout of replicas that span several pods, one StatefulSet each.

A group never changes: another revision is another group. So a rollout makes new groups and takes old ones away, and
what is decided here follows from what exists alone, whatever happened before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count, islice

from wenxin_operator import names
from wenxin_operator.names import LABEL_GROUP, LABEL_REVISION, STATEFUL_SET, Raw
from wenxin_operator.plan.workload import LONGEST_LOAD
from wenxin_operator.pods import PodSeen, Problem
from wenxin_operator.rollout import BUSIEST, Pace


@dataclass(frozen=True, slots=True)
class Group:
    """One group that exists and is not on its way out.

    Attributes:
        name: Its StatefulSet's.
        revision: Hash of the template of its pods.
        created: When, as RFC 3339 in UTC.
        ready: All its pods are.
        leader: Name of the pod that answers for it; empty while there is none.
        busy: How many sequences that pod has; BUSIEST where it was not asked, or did not answer.
    """

    name: str
    revision: str
    created: str
    ready: bool
    leader: str = ""
    busy: int = BUSIEST


@dataclass(frozen=True, slots=True)
class Groups:
    """Which groups there should be; what is in neither goes.

    Attributes:
        newest: Names of those of the newest revision, those to be made included.
        older: Names of those that stay for now.
    """

    newest: tuple[str, ...]
    older: tuple[str, ...]


def sets(children: Iterable[Raw]) -> Iterator[Raw]:
    """The StatefulSets that are groups, by what they select, which nobody can change: there may be others of ours."""
    for child in children:
        if child["kind"] == STATEFUL_SET and LABEL_GROUP in child["spec"]["selector"]["matchLabels"]:
            yield child


def see(children: Iterable[Raw], pods: Sequence[PodSeen], busy: Mapping[str, int] | None = None) -> tuple[Group, ...]:
    """The groups among a deployment's children. Those that are being deleted count no more.

    Args:
        children: The objects.
        pods: Those of all groups.
        busy: Sequences of pods that were asked and answered.
    """
    ready = [pod.group for pod in pods if pod.ready]
    leaders = {pod.group: pod.name for pod in pods if pod.leads and not pod.leaving}
    return tuple(
        Group(
            name=child["metadata"]["name"],
            revision=child["spec"]["selector"]["matchLabels"][LABEL_REVISION],
            created=child["metadata"].get("creationTimestamp", ""),
            ready=ready.count(child["metadata"]["name"]) >= child["spec"]["replicas"],
            leader=(leader := leaders.get(child["metadata"]["name"], "")),
            busy=(busy or {}).get(leader, BUSIEST),
        )
        for child in sets(children)
        if not child["metadata"].get("deletionTimestamp")
    )


def decide(present: Sequence[Group], free: Sequence[str], revision: str, replicas: int, pace: Pace) -> Groups:
    """Say which groups there should be.

    Args:
        present: What there is.
        free: Names for new groups, as many as may be needed.
        revision: The newest.
        replicas: How many groups are asked for.
        pace: How a rollout may go.
    """
    newest = _but(replicas, [group for group in present if group.revision == revision])
    older = [group for group in present if group.revision != revision]
    room = replicas + pace.surge - len(older)
    have = [group.name for group in newest]
    more = free[: max(0, min(replicas, room) - len(have))]
    # Of those that must always serve, the older ones make up for what the newest do not yet.
    needed = replicas - pace.unavailable - sum(group.ready for group in newest)
    return Groups((*have, *more), tuple(group.name for group in _but(needed, older)))


def chosen_from(present: Sequence[Group], after: Groups) -> frozenset[str]:
    """Leaders among which it is chosen who goes; empty where all alike go or stay. Of those not ready none is asked."""
    going: set[str] = set()
    staying: set[str] = set()
    for group in present:
        if group.ready:
            (staying if group.name in (*after.newest, *after.older) else going).add(group.revision)
    return frozenset(group.leader for group in present if group.ready and group.revision in going & staying)


def overdue(present: Iterable[Group], pods: Sequence[PodSeen], revision: str, now: datetime) -> Problem | None:
    """The first group of a revision that takes longer to become ready than any load does."""
    for group in sorted(present, key=lambda group: group.name):
        waits = [pod.since for pod in pods if pod.group == group.name and not pod.ready and pod.since]
        since = max([*waits, *([datetime.fromisoformat(group.created)] if group.created else ())], default=now)
        if group.revision == revision and not group.ready and now - since > timedelta(seconds=LONGEST_LOAD):
            words = f"group {group.name} has not become ready in {LONGEST_LOAD // 60} minutes"
            return Problem("ProgressDeadlineExceeded", words)
    return None


def free_names(deployment: str, revision: str, replicas: int, taken: frozenset[str]) -> tuple[str, ...]:
    """Names for new groups of a revision. None is taken again before the last pod of it is gone."""
    every = (names.group(deployment, revision, number) for number in count())
    return tuple(islice((name for name in every if name not in taken), replicas))


def taken_names(children: Iterable[Raw], pods: Iterable[PodSeen]) -> frozenset[str]:
    """Names of groups of which there is still something."""
    made = {child["metadata"]["name"] for child in sets(children)}
    return frozenset(made | {pod.group for pod in pods if pod.group})


def _but(number: int, groups: Sequence[Group]) -> list[Group]:
    """At most so many: ready ones stay before others, busy before idle, older before younger."""
    order = sorted(groups, key=lambda group: (not group.ready, -group.busy, group.created, group.name))
    staying = order[: max(0, number)]
    return [group for group in groups if group in staying]
