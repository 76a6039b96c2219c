"""Which groups of pods there should be: the rollout of replicas that span several pods, one StatefulSet each.

A group never changes: another revision is another group. So a rollout makes new groups and takes old ones away, and
what is decided here follows from what exists alone, whatever happened before.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from wenxin_operator import names
from wenxin_operator.names import LABEL_GROUP, LABEL_REVISION, STATEFUL_SET, Raw
from wenxin_operator.pods import PodSeen


@dataclass(frozen=True, slots=True)
class Group:
    """One group that exists and is not on its way out.

    Attributes:
        name: Its StatefulSet's.
        revision: Hash of the template of its pods.
        created: When, as RFC 3339 in UTC.
        ready: All its pods are.
    """

    name: str
    revision: str
    created: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """How a rollout may go.

    Attributes:
        surge: How many groups more than wanted there may be.
        unavailable: How many of those wanted may be missing or not ready for the rollout's sake.
    """

    surge: int
    unavailable: int


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


def see(children: Iterable[Raw], pods: Iterable[PodSeen]) -> tuple[Group, ...]:
    """The groups among a deployment's children. Those that are being deleted count no more."""
    ready = [pod.group for pod in pods if pod.ready]
    return tuple(
        Group(
            name=child["metadata"]["name"],
            revision=child["spec"]["selector"]["matchLabels"][LABEL_REVISION],
            created=child["metadata"].get("creationTimestamp", ""),
            ready=ready.count(child["metadata"]["name"]) >= child["spec"]["replicas"],
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


def free_names(deployment: str, revision: str, replicas: int, taken: frozenset[str]) -> tuple[str, ...]:
    """Names for new groups of a revision. None is taken again before the last pod of it is gone."""
    every = (names.group(deployment, revision, number) for number in count())
    return tuple(islice((name for name in every if name not in taken), replicas))


def taken_names(children: Iterable[Raw], pods: Iterable[PodSeen]) -> frozenset[str]:
    """Names of groups of which there is still something."""
    made = {child["metadata"]["name"] for child in sets(children)}
    return frozenset(made | {pod.group for pod in pods if pod.group})


def _but(number: int, groups: Sequence[Group]) -> list[Group]:
    """At most so many: ready ones stay before others, older before younger."""
    staying = sorted(groups, key=lambda group: (not group.ready, group.created, group.name))[: max(0, number)]
    return [group for group in groups if group in staying]
