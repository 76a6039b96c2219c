"""Which replicas go first, and whether a new one comes before an old one goes. Pure; the time is a parameter.

Whether the cluster has room for one replica more is asked of the cluster itself: one more is made, and where it is
not placed, an old one that holds as much goes for it (docs/adr/0019). Nothing is remembered but on the objects.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Self

from wenxin_operator.api.fields import seconds
from wenxin_operator.api.rollout import Rollout
from wenxin_operator.drift import quantity
from wenxin_operator.names import Raw, content_hash
from wenxin_operator.pods import PodSeen, Problem

BUSIEST = 2**31 - 1
"""The highest deletion cost: of a pod that serves and does not say how busy it is."""
LONGEST_PLACEMENT = 60  # seconds until the scheduler tries a pod again
LONGEST_REASON = 300  # characters
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a rollout may depart from the count that is wanted.

    Attributes:
        surge: How many replicas more there may be.
        unavailable: How many of those wanted may be missing or not ready for the rollout's sake.
    """

    surge: int
    unavailable: int

    def rolling_update(self) -> Raw:
        """As a Deployment and a LeaderWorkerSet spell it."""
        return {"maxSurge": self.surge, "maxUnavailable": self.unavailable}


@dataclass(frozen=True, slots=True)
class Room:
    """What a pod needs to be placed.

    Attributes:
        where: Hash of what narrows its nodes down.
        requests: Quantity of each resource that it asks for.
        pods: How many such pods make a replica.
    """

    where: str
    requests: Mapping[str, Decimal]
    pods: int

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read what `written` wrote; None where it is something else."""
        try:
            told = json.loads(text)
            requests = {str(name): quantity(amount) for name, amount in told["requests"].items()}
            known = {name: size for name, size in requests.items() if size is not None}
            return cls(str(told["where"]), known, int(told["pods"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def holds(self, other: Self) -> bool:
        """Whether `other` is placed where this one was, once this one and the others of its replica are gone."""
        enough = all(self.requests.get(name, Decimal(0)) >= size for name, size in other.requests.items())
        return enough and self.pods >= other.pods and self.where == other.where


def written(resources: Raw, placement: Raw, pods: int) -> str:
    """The room of a pod with one container, as an annotation.

    Args:
        resources: Its requests and limits; a limit without a request is one, as in the API.
        placement: What narrows its nodes down.
        pods: How many such pods make a replica.
    """
    requests = {**resources.get("limits", {}), **resources.get("requests", {})}
    room = {"where": content_hash(placement), "requests": requests, "pods": pods}
    return json.dumps(room, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Rolling:
    """What there is of a rollout.

    Attributes:
        wanted: How many replicas there should be.
        newest: Serving pods of the newest revision that are not on their way out, members of groups included.
        older: The same of earlier revisions.
        leaving: Pods of earlier revisions that are on their way out.
        room: What a pod of the newest revision needs, as `written` says it.
        grace: Seconds that a pod may take to go.
        refused: A new pod that could not even be made, and since when.
        no_room: Why an old one goes first already, as the newest revision's objects remember it.
    """

    wanted: int
    newest: tuple[PodSeen, ...]
    older: tuple[PodSeen, ...]
    leaving: int
    room: str
    grace: float
    refused: tuple[Problem, datetime] | None = None
    no_room: str = ""

    @property
    def done(self) -> bool:
        """Nothing is left to roll out."""
        ready = sum(pod.ready for pod in self.newest if pod.leads)
        return not self.older and not self.leaving and ready >= self.wanted


@dataclass(frozen=True, slots=True)
class Course:
    """The way a rollout goes.

    Attributes:
        pace: How far it may depart from the count.
        words: Which way that is, and why.
        no_room: What there was no room for, where that is why an old one goes first.
        retry_at: When time alone changes it.
        passing: That a new pod is not placed, or not made, is part of it, and no trouble.
    """

    pace: Pace
    words: str = ""
    no_room: str = ""
    retry_at: datetime | None = None
    passing: bool = False


def course(asked: Rollout, rolling: Rolling, now: datetime) -> Course:
    """Choose the way.

    Args:
        asked: The spec's.
        rolling: What there is.
        now: The time.
    """
    if asked.strategy == "Surge":
        return Course(Pace(asked.max_surge, 0), "a new one comes before an old one goes, as spec.rollout.strategy says")
    if asked.strategy == "Replace":
        return _one_out_one_in(asked, rolling, "as spec.rollout.strategy says", now)
    if rolling.no_room and not rolling.done:
        return _for_want_of_room(asked, rolling, rolling.no_room, now)
    return _tried(asked, rolling, now)


def _tried(asked: Rollout, rolling: Rolling, now: datetime) -> Course:
    """Surge, until a new one has waited for room too long."""
    surge, found = Pace(asked.max_surge, 0), _hindrance(rolling) if rolling.older else None
    if found is None:
        passing = bool(rolling.older and _unplaced(rolling))  # for another one loads
        return Course(surge, "a new one comes before an old one goes, as long as there is room", passing=passing)
    problem, since = found
    if not _fits_for_an_older(rolling):
        words = "no old one goes for a new one, which asks for more than it holds, or for other nodes"
        return Course(surge, f"{words}; spec.rollout.strategy Replace lets one go all the same")
    if rolling.leaving:
        return Course(surge, "a new one waits for the room of an old one that finishes its requests", passing=True)
    # Where one more has found room already, there is the room of an old one that has just gone, or will be.
    found_room = any(pod.ready for pod in rolling.newest)
    patience = seconds(asked.surge_timeout) + (rolling.grace + LONGEST_PLACEMENT if found_room else 0)
    until = since + timedelta(seconds=patience)
    if now < until:
        words = f"a new one waits for room beside the old ones, and after {patience:g}s an old one goes for it"
        return Course(surge, words, retry_at=until, passing=True)
    return _for_want_of_room(asked, rolling, problem.message[:LONGEST_REASON], now)


def settled(asked: Rollout, *, surges: bool) -> Course:
    """The way where another controller makes the groups, and no trial is made.

    Args:
        asked: The spec's.
        surges: What Auto stands for.
    """
    if asked.strategy == "Surge" or (asked.strategy == "Auto" and surges):
        return Course(Pace(asked.max_surge, 0), "a new one comes before an old one goes")
    return Course(Pace(0, asked.max_unavailable), "an old one goes before a new one comes")


def costs(pods: Iterable[PodSeen], busy: Mapping[str, int]) -> dict[str, int]:
    """Deletion costs that are to be written before the count falls: of pods whose cost is another now.

    Equals are left to Kubernetes, which spreads what stays over the nodes and keeps the oldest. A pod that is not
    ready goes before all others whatever it costs; should it become ready meanwhile, it is idle.

    Args:
        pods: All that serve.
        busy: Sequences of those that were asked and answered.
    """
    due = {pod.name: _cost(pod, busy) for pod in pods if not pod.leaving}
    return {pod.name: due[pod.name] for pod in pods if pod.name in due and due[pod.name] != pod.cost}


def lacks_room(problem: Problem) -> bool:
    """Whether another pod's going may help: not where no node suits, or a policy forbids."""
    words = {"Unschedulable": "Insufficient ", "FailedCreate": "exceeded quota"}.get(problem.reason)
    return words is not None and words in problem.message


def _cost(pod: PodSeen, busy: Mapping[str, int]) -> int:
    return min(busy.get(pod.name, BUSIEST), BUSIEST) if pod.ready else 0


def _one_out_one_in(asked: Rollout, rolling: Rolling, why: str, now: datetime) -> Course:
    words = f"an old one goes before a new one comes, {why}{_gap(asked, rolling)}"
    return Course(Pace(0, asked.max_unavailable), words, passing=_makes_way(asked, rolling, now))


def _for_want_of_room(asked: Rollout, rolling: Rolling, no_room: str, now: datetime) -> Course:
    why = f"for there was no room for one more ({no_room})"
    return replace(_one_out_one_in(asked, rolling, why, now), no_room=no_room)


def _gap(asked: Rollout, rolling: Rolling) -> str:
    return "; until the new one is ready, nothing answers" if rolling.wanted <= asked.max_unavailable else ""


def _makes_way(asked: Rollout, rolling: Rolling, now: datetime) -> bool:
    """Whether an old one is going, is about to, or may have gone so lately that the scheduler has not seen it."""
    ready = sum(pod.ready for pod in (*rolling.newest, *rolling.older) if pod.leads)
    patience = timedelta(seconds=seconds(asked.surge_timeout) + rolling.grace + LONGEST_PLACEMENT)
    found, about_to = _hindrance(rolling), bool(rolling.older) and ready > rolling.wanted - asked.max_unavailable
    return bool(rolling.leaving) or about_to or (found is not None and now < found[1] + patience)


def _hindrance(rolling: Rolling) -> tuple[Problem, datetime] | None:
    """What new pods find no room for, and since when; none while another new replica has its room and loads."""
    unplaced = _unplaced(rolling)
    waiting = {_replica(pod) for pod in unplaced}
    if any(not pod.ready and _replica(pod) not in waiting for pod in rolling.newest):
        return None
    found = [(problem, pod.since or LONG_AGO) for pod in unplaced if (problem := pod.problem)]
    if rolling.refused and lacks_room(rolling.refused[0]):
        found.append(rolling.refused)
    return min(found, key=lambda one: one[1], default=None)


def _unplaced(rolling: Rolling) -> list[PodSeen]:
    return [pod for pod in rolling.newest if pod.problem and lacks_room(pod.problem)]


def _replica(pod: PodSeen) -> str:
    return pod.group or pod.name


def _fits_for_an_older(rolling: Rolling) -> bool:
    """Whether an old pod holds what a new one needs. One that does not say was made by an older operator: it does."""
    new = Room.read(rolling.room)
    rooms = [Room.read(pod.room) for pod in rolling.older]
    return new is None or any(old is None or old.holds(new) for old in rooms)
