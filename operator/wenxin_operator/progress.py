"""How far the replicas are: the serving pods, sorted by what they mean for the newest revision. Pure."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from wenxin_operator.names import DEPLOYMENT, LEADER_WORKER_SET
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan import groups
from wenxin_operator.plan.deployment import DeploymentPlan
from wenxin_operator.pods import PodSeen, Problem
from wenxin_operator.rollout import lacks_room

_POD_NAME = re.compile(r'pods "[^"]+" ')
_CONSEQUENCES = frozenset({"RankLost"})
"""Reasons with which the pods of a group follow another of theirs; that one's own words say more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What there is of the replicas. Of a group of pods, the first stands for all.

    Attributes:
        wanted: How many replicas there should be.
        grouped: A replica of the newest revision is a group of pods.
        newest: First pods of the newest revision, not on their way out.
        older: First pods of earlier revisions, not on their way out.
        answering: Newest ones that are ready and stand in the EndpointSlice.
        any_answering: The same of every revision.
        problem: What most of the newest that are not ready suffer from, members of groups included; else what their
            Deployment complains of, or which group takes too long.
        waiting: Which group waits for others of its pods, in words; empty where none does.
        by_ordinal: Too many groups are there, and a LeaderWorkerSet chooses which of them go.
        way: How the newest take the place of older ones, and why; empty while there is nobody to take the place of.
    """

    wanted: int
    grouped: bool
    newest: tuple[PodSeen, ...]
    older: tuple[PodSeen, ...]
    answering: int
    any_answering: int
    problem: Problem | None
    waiting: str
    by_ordinal: bool
    way: str

    @property
    def complete(self) -> bool:
        """Exactly what is wanted is there and answers."""
        return self.answering == len(self.newest) == self.wanted and not self.older

    @property
    def noun(self) -> str:
        """What replicas are called."""
        return "groups" if self.grouped else "pods"

    def rolling_out(self) -> str:
        """How far it is, in words."""
        clauses = [f"{self.answering} of {self.wanted} {self.noun} of the newest revision answer"]
        if self.older:
            clauses.append(f"{len(self.older)} of older ones are still there")
        if self.way:
            clauses.append(self.way)
        if self.waiting:
            clauses.append(self.waiting)
        if self.by_ordinal:
            clauses.append("the LeaderWorkerSet takes groups away by ordinal, the highest first, not the idlest")
        return "; ".join(clauses)


def see(seen: DeploymentSnapshot, plan: DeploymentPlan, now: datetime) -> Progress:
    """Sort the pods.

    Args:
        seen: What there is.
        plan: What should exist.
        now: The time.
    """
    target = plan.decision.target
    nodes = target.spec.parallelism.nodes if target else 1
    wanted = target.spec.replicas if target else 0
    present = [pod for pod in seen.pods if not pod.leaving]
    newest = [pod for pod in present if pod.revision == plan.revision]
    leaders = tuple(pod for pod in newest if pod.leads)
    return Progress(
        wanted=wanted,
        grouped=nodes > 1,
        newest=leaders,
        older=tuple(pod for pod in present if pod.leads and pod.revision != plan.revision),
        answering=sum(_answers(pod, seen) for pod in leaders),
        any_answering=sum(_answers(pod, seen) for pod in present),
        problem=_in_the_way(_problem(newest, wanted) or _stuck(seen, plan, now), seen, plan),
        waiting=_waiting(_members(newest, seen, plan.revision), nodes),
        by_ordinal=plan.workload == LEADER_WORKER_SET and len(leaders) > wanted,
        way=_way(seen, plan),
    )


def _stuck(seen: DeploymentSnapshot, plan: DeploymentPlan, now: datetime) -> Problem | None:
    """What the Deployment itself complains of: pods that it may not make, or that take too long. Of groups, we do."""
    live = next((child for child in seen.children if child["kind"] == plan.workload == DEPLOYMENT), {})
    for condition in (live.get("status") or {}).get("conditions") or ():
        made = (condition.get("type"), condition.get("status"))
        if made == ("ReplicaFailure", "True") or condition.get("reason") == "ProgressDeadlineExceeded":
            # Each attempt names another pod that was not made.
            return Problem(condition["reason"], _POD_NAME.sub("pods ", condition.get("message", "")))
    return groups.overdue(groups.see(seen.children, seen.pods), seen.pods, plan.revision, now)


def _in_the_way(problem: Problem | None, seen: DeploymentSnapshot, plan: DeploymentPlan) -> Problem | None:
    """Of a new pod that is not placed or not made: none where that is a step of the rollout, else how it goes on."""
    if problem is None or plan.course is None or not lacks_room(problem):
        return problem
    if plan.course.passing:
        return None
    way = _way(seen, plan)
    return Problem(problem.reason, f"{problem.message}; {way}") if way else problem


def _way(seen: DeploymentSnapshot, plan: DeploymentPlan) -> str:
    course = plan.course
    rolls = any(pod.revision != plan.revision for pod in seen.pods)
    return course.words if course and (rolls or course.no_room) else ""


def _answers(pod: PodSeen, seen: DeploymentSnapshot) -> bool:
    return pod.ready and pod.leads and pod.name in seen.serving


def _by_group(pods: Iterable[PodSeen]) -> dict[str, list[PodSeen]]:
    found = defaultdict(list)
    for pod in pods:
        found[pod.group].append(pod)
    return found


def _problem(pods: Sequence[PodSeen], wanted: int) -> Problem | None:
    """The most frequent, the first by name among equals: the same pods always give the same words."""
    counts = Counter(pod.problem for pod in pods if pod.problem)
    order = ((problem.reason in _CONSEQUENCES, -number, problem) for problem, number in counts.items())
    worst = min(order, default=None)
    if worst is None:
        return None
    problem = worst[2]
    suffering = sorted((pod for pod in pods if pod.problem == problem), key=lambda pod: pod.name)
    return Problem(problem.reason, _whose(suffering, wanted) + problem.message)


def _whose(suffering: Sequence[PodSeen], wanted: int) -> str:
    """How many replicas have a problem, and where in a group it is."""
    first = suffering[0]
    if not first.group:
        return f"{len(suffering)} of {wanted} pods: " if wanted > 1 else ""
    many = f"{len(_by_group(suffering))} of {wanted} groups: " if wanted > 1 else ""
    return f"{many}node {first.node_rank} ({'leader' if first.leads else 'worker'}) of group {first.group}: "


def _members(newest: Sequence[PodSeen], seen: DeploymentSnapshot, revision: str) -> Mapping[str, Sequence[PodSeen]]:
    """The pods of each group. A StatefulSet that may make no pod is a group, too."""
    made = [group.name for group in groups.see(seen.children, seen.pods) if group.revision == revision]
    return dict.fromkeys(made, ()) | _by_group(newest)


def _waiting(members: Mapping[str, Sequence[PodSeen]], nodes: int) -> str:
    for name, pods in sorted(members.items()):
        ready = sum(pod.ready for pod in pods)
        if len(pods) < nodes:
            return f"group {name} waits for its pods: {len(pods)} of {nodes} are there"
        if name and 0 < ready < nodes:
            return f"group {name} waits for its pods: {ready} of {nodes} are ready"
    return ""
