"""The whole plan of a WenxinDeployment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from wenxin_operator import names
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import (
    COMPONENT_RUNTIME,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    STATEFUL_SET,
    WENXIN_MODEL,
    Raw,
    content_hash,
    revision,
)
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan import answer_cache, autoscaler, flags, network, replicas, service, stateful_set
from wenxin_operator.plan.acceptance import Decision, decide
from wenxin_operator.plan.manifest import OperatorSettings, Owner, Plan
from wenxin_operator.plan.replicas import Replicas
from wenxin_operator.pods import Problem
from wenxin_operator.rollout import Course
from wenxin_operator.target import Target


@dataclass(frozen=True, slots=True)
class DeploymentPlan(Plan):
    """What should exist for a WenxinDeployment, and why.

    Attributes:
        decision: Which spec and weights it follows.
        revision: The label of the newest revision's pods; empty without a target.
        workload: Kind of the objects that make them.
        leaders: Labels of the pods that answer requests.
        course: How the newest pods take the place of older ones; None without a target.
        unscaled: Why there is no autoscaler though the spec asks for one.
    """

    decision: Decision = field(default=Decision(None, None))
    revision: str = ""
    workload: str = DEPLOYMENT
    leaders: Mapping[str, str] = field(default_factory=dict)
    course: Course | None = None
    unscaled: Problem | None = None


def plan(seen: DeploymentSnapshot, settings: OperatorSettings, now: datetime) -> DeploymentPlan:
    """Plan everything.

    Args:
        seen: What there is.
        settings: The operator's.
        now: The time.
    """
    decision, owner = decide(seen), Owner.of(seen.resource)
    if decision.spec is None:
        leaders = names.pod_selector(owner.key.name)
        return DeploymentPlan(prune=False, decision=decision, leaders=leaders)
    if decision.target is None:
        kind = replicas.kind_for(decision.spec, seen)
        leaders = names.leader_selector(owner.key.name, kind)
        standing = _standing(owner, decision.spec, seen, leaders, frozenset({kind}), settings)
        return DeploymentPlan(
            tuple(standing),
            prune=False,
            secrets=_secrets(owner, decision.spec, seen),
            decision=decision,
            workload=kind,
            leaders=leaders,
        )
    config_map = _flags(owner, decision.target)
    running = replicas.plan(owner, decision.target, config_map["metadata"]["name"], seen, settings, now)
    kinds = frozenset({running.kind, *(kind for kind, _ in running.older)})
    standing = _standing(owner, decision.spec, seen, running.leaders, kinds, settings)
    scaler = autoscaler.plan(owner, decision.spec, decision.target.spec, seen.scalers, settings)
    scalers = (scaler.manifest,) if scaler.manifest else ()
    # The spec is recorded last: only what the API server has taken in full is worth going back to.
    return DeploymentPlan(
        (*standing, config_map, *running.objects, *scalers, _controller_revision(owner, decision.target, seen)),
        running.older | _flags_in_use(seen, running) | _weights_in_use(owner, decision.target, seen, running),
        decision=decision,
        revision=running.revision,
        workload=running.kind,
        leaders=running.leaders,
        course=running.course,
        retry_at=running.course.retry_at,
        secrets=_secrets(owner, decision.spec, seen),
        ask=running.ask | _cached(decision.spec, seen),
        costs=running.costs,
        unscaled=scaler.problem,
    )


def _standing(
    owner: Owner,
    spec: DeploymentSpec,
    seen: DeploymentSnapshot,
    leaders: Mapping[str, str],
    workloads: frozenset[str],
    settings: OperatorSettings,
) -> Iterator[Raw]:
    """What does not wait for the weights."""
    if not spec.model.ref:
        inline = spec.model.model_dump(mode="json", by_alias=True, exclude_none=True)
        yield owner.child(WENXIN_MODEL, owner.key.name, COMPONENT_RUNTIME, spec=inline)
    yield service.service_account(owner)
    # Pods of a group that drains need each other to the end.
    together = workloads != {DEPLOYMENT} or any(pod.group for pod in seen.pods)
    yield network.serving_policy(owner, spec, settings, together=together)
    yield service.service(owner, leaders, grpc=spec.grpc)
    if STATEFUL_SET in workloads:
        yield stateful_set.headless_service(owner)
    if spec.replicas > 1:
        yield service.disruption_budget(owner)
    yield from answer_cache.objects(owner, spec, settings)


def _secrets(owner: Owner, spec: DeploymentSpec, seen: DeploymentSnapshot) -> tuple[Raw, ...]:
    return (answer_cache.secret(owner),) if answer_cache.lacks_secret(spec, seen) else ()


def _cached(spec: DeploymentSpec, seen: DeploymentSnapshot) -> frozenset[str]:
    """Pods that know whether Redis answers them: all that serve."""
    return frozenset(pod.name for pod in seen.pods if pod.ready and pod.leads) if spec.answer_cache else frozenset()


def _flags(owner: Owner, target: Target) -> Raw:
    text = flags.render(target.spec, owner.key.name)
    name = names.flags_config_map(owner.key.name, text)
    return owner.child(CONFIG_MAP, name, COMPONENT_RUNTIME, immutable=True, data={"flags": text})


def _flags_in_use(seen: DeploymentSnapshot, running: Replicas) -> frozenset[tuple[str, str]]:
    """ConfigMaps that older pods mount. While there are any, all stay: what made them may yet replace one."""
    if not running.older and all(pod.revision == running.revision for pod in seen.pods):
        return frozenset()
    maps = (child["metadata"]["name"] for child in seen.children if child["kind"] == CONFIG_MAP)
    return frozenset((CONFIG_MAP, name) for name in maps)


def _weights_in_use(
    owner: Owner, target: Target, seen: DeploymentSnapshot, running: Replicas
) -> frozenset[tuple[str, str]]:
    """The WenxinModel of an inline source that is no longer asked for, and whose claim would go with it.

    It stays while the pods follow it, and while there are older ones: a node may be lost before they are replaced.
    """
    older = running.older or any(pod.revision != running.revision for pod in seen.pods)
    used = older or target.model.name == owner.key.name
    return frozenset({(WENXIN_MODEL, owner.key.name)} if used else ())


def _controller_revision(owner: Owner, target: Target, seen: DeploymentSnapshot) -> Raw:
    data = target.data()
    same = seen.target is not None and content_hash(seen.target.data()) == content_hash(data)
    number = seen.target_revision if same else seen.target_revision + 1
    name = revision(owner.key.name, data)
    return owner.child(CONTROLLER_REVISION, name, COMPONENT_RUNTIME, data=data, revision=number)
