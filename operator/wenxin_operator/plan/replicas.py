"""What makes the replicas: a Deployment where each is one pod, a LeaderWorkerSet or StatefulSets where it is more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import (
    DEPLOYMENT,
    LABEL_REVISION,
    LEADER_WORKER_SET,
    STATEFUL_SET,
    Raw,
    leader_selector,
)
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan import groups
from wenxin_operator.plan.groups import Groups, Pace
from wenxin_operator.plan.leader_worker_set import MEMBERSHIP, leader_worker_set
from wenxin_operator.plan.manifest import OperatorSettings, Owner
from wenxin_operator.plan.stateful_set import membership, stateful_set
from wenxin_operator.plan.workload import deployment, gpus_per_replica, pod_template, revision_of, rolling_update
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
    """

    kind: str
    revision: str
    objects: tuple[Raw, ...]
    older: frozenset[tuple[str, str]]
    leaders: Mapping[str, str]


def kind_for(spec: DeploymentSpec, seen: DeploymentSnapshot) -> str:
    """Which kind of object makes the replicas. StatefulSets that serve already stay when LeaderWorkerSets come."""
    if spec.parallelism.nodes == 1:
        return DEPLOYMENT
    groups_of_ours = any(groups.sets(seen.children))
    return LEADER_WORKER_SET if seen.leader_worker_sets and not groups_of_ours else STATEFUL_SET


def plan(owner: Owner, target: Target, flags: str, seen: DeploymentSnapshot, settings: OperatorSettings) -> Replicas:
    """Plan them.

    Args:
        owner: The WenxinDeployment.
        target: What the pods follow.
        flags: Name of the ConfigMap with their flags.
        seen: What there is.
        settings: The operator's.
    """
    name, spec, kind = owner.key.name, target.spec, kind_for(target.spec, seen)
    told = {LEADER_WORKER_SET: MEMBERSHIP, STATEFUL_SET: membership(owner)}.get(kind)
    template = pod_template(owner, target, flags, settings, told)
    newest = revision_of(template)
    before = _before(kind, newest, spec, seen)
    leaders = _leaders(name, kind, newest, before, seen)
    older = [(child["kind"], child["metadata"]["name"]) for child in before]
    if kind == DEPLOYMENT:
        objects: tuple[Raw, ...] = (deployment(owner, spec, template),)
    elif kind == LEADER_WORKER_SET:
        objects = (leader_worker_set(owner, target, template),)
    else:
        these = _groups(name, newest, spec, seen)
        objects = tuple(stateful_set(owner, template, spec.parallelism.nodes, group) for group in these.newest)
        older += [(STATEFUL_SET, group) for group in these.older]
    return Replicas(kind, newest, objects, frozenset(older), leaders)


def _groups(deployment: str, newest: str, spec: DeploymentSpec, seen: DeploymentSnapshot) -> Groups:
    pace = rolling_update(spec)
    free = groups.free_names(deployment, newest, spec.replicas, groups.taken_names(seen.children, seen.pods))
    present = groups.see(seen.children, seen.pods)
    return groups.decide(present, free, newest, spec.replicas, Pace(pace["maxSurge"], pace["maxUnavailable"]))


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
