"""The whole plan of a WenxinDeployment."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import (
    COMPONENT_RUNTIME,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    WENXIN_MODEL,
    Raw,
    content_hash,
    flags_config_map,
    revision,
)
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan import flags, network, service, workload
from wenxin_operator.plan.acceptance import Decision, decide
from wenxin_operator.plan.manifest import OperatorSettings, Owner, Plan
from wenxin_operator.target import Target


@dataclass(frozen=True, slots=True)
class DeploymentPlan(Plan):
    """What should exist for a WenxinDeployment, and why.

    Attributes:
        decision: Which spec and weights it follows.
        revision: The label of the newest revision's pods; empty without a target.
    """

    decision: Decision = field(default=Decision(None, None))
    revision: str = ""


def plan(seen: DeploymentSnapshot, settings: OperatorSettings) -> DeploymentPlan:
    """Plan everything.

    Args:
        seen: What there is.
        settings: The operator's.
    """
    decision, owner = decide(seen), Owner.of(seen.resource)
    if decision.spec is None:
        return DeploymentPlan(prune=False, decision=decision)
    objects = tuple(_standing(owner, decision.spec, settings))
    if decision.target is None:
        return DeploymentPlan(objects, prune=False, decision=decision)
    running = _running(owner, decision.target, settings)
    newest = workload.revision_of(running[-1])
    kept_spec = _controller_revision(owner, decision.target, seen)
    # The spec is recorded last: only what the API server has taken in full is worth going back to.
    return DeploymentPlan(
        (*objects, *running, kept_spec), _flags_in_use(seen, newest), decision=decision, revision=newest
    )


def _standing(owner: Owner, spec: DeploymentSpec, settings: OperatorSettings) -> Iterator[Raw]:
    """What does not wait for the weights."""
    if spec.model.source:
        yield owner.child(WENXIN_MODEL, owner.key.name, COMPONENT_RUNTIME, spec={"source": spec.model.source})
    yield service.service_account(owner)
    yield network.serving_policy(owner, spec, settings)
    yield service.service(owner)
    if spec.replicas > 1:
        yield service.disruption_budget(owner)


def _running(owner: Owner, target: Target, settings: OperatorSettings) -> tuple[Raw, Raw]:
    text = flags.render(target.spec, owner.key.name)
    name = flags_config_map(owner.key.name, text)
    config_map = owner.child(CONFIG_MAP, name, COMPONENT_RUNTIME, immutable=True, data={"flags": text})
    return config_map, workload.deployment(owner, target, name, settings)


def _flags_in_use(seen: DeploymentSnapshot, newest: str) -> frozenset[tuple[str, str]]:
    """ConfigMaps that older pods mount. While there are any, all stay: their ReplicaSet may yet replace one."""
    if all(pod.revision == newest for pod in seen.pods):
        return frozenset()
    maps = (child["metadata"]["name"] for child in seen.children if child["kind"] == CONFIG_MAP)
    return frozenset((CONFIG_MAP, name) for name in maps)


def _controller_revision(owner: Owner, target: Target, seen: DeploymentSnapshot) -> Raw:
    data = target.data()
    same = seen.target is not None and content_hash(seen.target.data()) == content_hash(data)
    number = seen.target_revision if same else seen.target_revision + 1
    name = revision(owner.key.name, data)
    return owner.child(CONTROLLER_REVISION, name, COMPONENT_RUNTIME, data=data, revision=number)
