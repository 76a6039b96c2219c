"""What makes the replicas: a Deployment where each is one pod, a LeaderWorkerSet or StatefulSets where it is more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from wenxin_operator import rollout
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import (
    ANNOTATION_NO_ROOM,
    ANNOTATION_ROOM,
    DEPLOYMENT,
    LABEL_REVISION,
    LEADER_WORKER_SET,
    STATEFUL_SET,
    Raw,
    leader_selector,
)
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan import groups
from wenxin_operator.plan.leader_worker_set import MEMBERSHIP, leader_worker_set
from wenxin_operator.plan.manifest import OperatorSettings, Owner
from wenxin_operator.plan.stateful_set import membership, stateful_set
from wenxin_operator.plan.workload import deployment, gpus_per_replica, pod_template, revision_of
from wenxin_operator.pods import Problem
from wenxin_operator.rollout import Course, Rolling
from wenxin_operator.target import Target


@dataclass(frozen=True, slots=True)
class Replicas:
    """The objects that make the pods.

    Attributes:
        kind: Of those that make the newest revision's.
        revision: The label of its pods.
        objects: What should be as planned.
        older: Names and kinds of others that stay for now.
        leaders: Labels of the pods that answer requests now.
        course: How the newest take the place of older ones.
        ask: Pods among which it is chosen who goes, and of which it is not known how busy they are.
        costs: Deletion costs that are to be written before the count falls.
    """

    kind: str
    revision: str
    objects: tuple[Raw, ...]
    older: frozenset[tuple[str, str]]
    leaders: Mapping[str, str]
    course: Course
    ask: frozenset[str] = frozenset()
    costs: Mapping[str, int] = field(default_factory=dict)


def kind_for(spec: DeploymentSpec, seen: DeploymentSnapshot) -> str:
    """Which kind of object makes the replicas. StatefulSets that serve already stay when LeaderWorkerSets come."""
    if spec.parallelism.nodes == 1:
        return DEPLOYMENT
    groups_of_ours = any(groups.sets(seen.children))
    return LEADER_WORKER_SET if seen.leader_worker_sets and not groups_of_ours else STATEFUL_SET


def plan(
    owner: Owner, target: Target, flags: str, seen: DeploymentSnapshot, settings: OperatorSettings, now: datetime
) -> Replicas:
    """Plan them.

    Args:
        owner: The WenxinDeployment.
        target: What the pods follow.
        flags: Name of the ConfigMap with their flags.
        seen: What there is.
        settings: The operator's.
        now: The time.
    """
    name, spec, kind = owner.key.name, target.spec, kind_for(target.spec, seen)
    told = {LEADER_WORKER_SET: MEMBERSHIP, STATEFUL_SET: membership(owner)}.get(kind)
    template = pod_template(owner, target, flags, settings, told)
    newest = revision_of(template)
    before = _before(kind, newest, spec, seen)
    leaders = _leaders(name, kind, newest, before, seen)
    older = frozenset((child["kind"], child["metadata"]["name"]) for child in before)
    if kind == LEADER_WORKER_SET:
        course = rollout.settled(spec.rollout, surges=not gpus_per_replica(spec))
        return Replicas(kind, newest, (leader_worker_set(owner, target, template, course),), older, leaders, course)
    course = rollout.course(spec.rollout, rolling(kind, template, spec, seen), now)
    if kind == DEPLOYMENT:
        made = deployment(owner, spec, template, course)
        return Replicas(kind, newest, (made,), older, leaders, course, *_shrinking(made, seen))
    present = groups.see(seen.children, seen.pods, seen.busy)
    free = groups.free_names(name, newest, spec.replicas, groups.taken_names(seen.children, seen.pods))
    these = groups.decide(present, free, newest, spec.replicas, course.pace)
    objects = tuple(stateful_set(owner, template, spec.parallelism.nodes, group, course) for group in these.newest)
    older |= {(STATEFUL_SET, group) for group in these.older}
    ask = groups.chosen_from(present, these) if seen.busy is None else frozenset[str]()
    return Replicas(kind, newest, objects, older, leaders, course, ask)


def rolling(kind: str, template: Raw, spec: DeploymentSpec, seen: DeploymentSnapshot) -> Rolling:
    """What there is of a rollout.

    Args:
        kind: Of the objects that make the newest pods.
        template: The newest pods.
        spec: What they follow.
        seen: What there is.
    """
    newest = revision_of(template)
    pods = [pod for pod in seen.pods if bool(pod.group) == (kind != DEPLOYMENT)]
    older = [pod for pod in pods if pod.revision != newest]
    makers = [child for child in seen.children if child["kind"] == kind and _revision_made(child) == newest]
    no_room = (child["metadata"].get("annotations", {}).get(ANNOTATION_NO_ROOM) for child in makers)
    return Rolling(
        wanted=spec.replicas,
        newest=tuple(pod for pod in pods if pod.revision == newest and not pod.leaving),
        older=tuple(pod for pod in older if not pod.leaving),
        leaving=sum(pod.leaving for pod in older),
        room=template["metadata"]["annotations"][ANNOTATION_ROOM],
        grace=template["spec"]["terminationGracePeriodSeconds"],
        refused=next((told for maker in makers if (told := _refused(maker))), None),
        no_room=next((why for why in no_room if why), ""),
    )


def _revision_made(child: Raw) -> str | None:
    labels: Mapping[str, str] = child["spec"]["template"]["metadata"].get("labels") or {}
    return labels.get(LABEL_REVISION)


def _refused(workload: Raw) -> tuple[Problem, datetime] | None:
    """A pod that the API server did not let be made; StatefulSets say nothing of it."""
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if (condition.get("type"), condition.get("status")) == ("ReplicaFailure", "True"):
            problem = Problem(condition.get("reason", ""), condition.get("message", ""))
            moment = condition.get("lastTransitionTime")
            return problem, datetime.fromisoformat(moment) if moment else rollout.LONG_AGO
    return None


def _shrinking(made: Raw, seen: DeploymentSnapshot) -> tuple[frozenset[str], Mapping[str, int]]:
    """Whom to ask, or, where it is known, what to write on whom, before the Deployment's count falls."""
    live = next((child for child in seen.children if child["kind"] == DEPLOYMENT), made)
    if not 0 < made["spec"]["replicas"] < live["spec"].get("replicas", 1):
        return frozenset(), {}
    pods = [pod for pod in seen.pods if not pod.group]
    if seen.busy is None and any(pod.ready for pod in pods):
        return frozenset(pod.name for pod in pods if pod.ready), {}
    return frozenset(), rollout.costs(pods, seen.busy or {})


def _before(kind: str, newest: str, spec: DeploymentSpec, seen: DeploymentSnapshot) -> list[Raw]:
    """Objects of another kind that serve until all new replicas do; on GPUs they go first, for those are the new ones'.

    It happens where parallelism.nodes goes from 1 to more or back.
    """
    workloads = (child for child in seen.children if child["kind"] in {DEPLOYMENT, LEADER_WORKER_SET})
    others = [child for child in (*workloads, *groups.sets(seen.children)) if child["kind"] != kind]
    ready = sum(pod.ready and pod.leads and pod.revision == newest for pod in seen.pods)
    return others if ready < spec.replicas and not gpus_per_replica(spec) else []


def _leaders(
    deployment: str, kind: str, newest: str, before: Sequence[Raw], seen: DeploymentSnapshot
) -> dict[str, str]:
    """The pods that answer: of the newest kind, or of the one before it while that stays.

    What a Deployment's pods have and members of a group have not is their revision.
    """
    serving = before[0]["kind"] if before else kind
    labels = leader_selector(deployment, serving)
    if serving != DEPLOYMENT or (kind == DEPLOYMENT and not any(pod.group for pod in seen.pods)):
        return labels
    return labels | {LABEL_REVISION: revision_of(before[0]["spec"]["template"]) if before else newest}
