"""How far the replicas are: the serving pods, sorted by what they mean for the newest revision. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wenxin_operator.names import LEADER_WORKER_SET
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan import groups
from wenxin_operator.plan.deployment import DeploymentPlan
from wenxin_operator.pods import PodSeen, Problem

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
        problem: What most of the newest that are not ready suffer from, members of groups included.
        waiting: Which group waits for others of its pods, in words; empty where none does.
        by_ordinal: Too many groups are there, and a LeaderWorkerSet chooses which of them go.
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
        if self.waiting:
            clauses.append(self.waiting)
        if self.by_ordinal:
            clauses.append("the LeaderWorkerSet takes groups away by ordinal, the highest first, not the idlest")
        return "; ".join(clauses)


def see(seen: DeploymentSnapshot, plan: DeploymentPlan) -> Progress:
    """Sort the pods.

    Args:
        seen: What there is.
        plan: What should exist.
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
        problem=_problem(newest, wanted),
        waiting=_waiting(_members(newest, seen, plan.revision), nodes),
        by_ordinal=plan.workload == LEADER_WORKER_SET and len(leaders) > wanted,
    )


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
