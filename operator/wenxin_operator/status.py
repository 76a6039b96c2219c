"""Spec, snapshot, plan and what went wrong -> the status and the events of one pass. Pure; the time is a parameter.

Each condition is defined in words in api/; here stands which facts make it True.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from wenxin_operator import caching, names, progress, scalers, scaling
from wenxin_operator.api.deployment import DeploymentSpec, DeploymentStatus, ServedModel
from wenxin_operator.api.model import ModelStatus
from wenxin_operator.conditions import Finding, events, finding, settle
from wenxin_operator.errors import ApiError, Conflict, Invalid, OperatorError, SpecError
from wenxin_operator.events import Event
from wenxin_operator.names import WORKLOADS, Raw
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan.deployment import DeploymentPlan
from wenxin_operator.plan.workload import gpus_per_replica
from wenxin_operator.pods import Problem
from wenxin_operator.progress import Progress

_INLINE = re.compile(
    r"\bspec\.(source|preset|revision|checksums|mirror|proxy|caConfigMapRef|credentialsSecretRef|storage)\b"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What the API server would not do.

    Attributes:
        kind: Of the object that it was about.
        name: Of that object.
    """

    kind: str
    name: str
    error: OperatorError

    @property
    def of_the_spec(self) -> bool:
        """Whether it is the spec's fault: only spec.pod reaches a manifest unjudged, and only what makes the pods."""
        return self.kind in WORKLOADS and isinstance(self.error, Invalid)

    def problem(self) -> Problem:
        """In a condition's words."""
        reason = self.error.reason if isinstance(self.error, ApiError) else type(self.error).__name__
        causes = self.error.causes if isinstance(self.error, ApiError) else ()
        first = {cause.field: cause.message for cause in reversed(causes)}  # one sentence for each field
        words = "; ".join(f"{field}: {message}" for field, message in first.items()) or str(self.error)
        return Problem(reason, f"{self.kind} {self.name}: {words}")


@dataclass(frozen=True, slots=True)
class Report:
    """What to tell about one pass."""

    status: Raw
    events: tuple[Event, ...]


def deployment(seen: DeploymentSnapshot, plan: DeploymentPlan, failure: Failure | None, now: datetime) -> Report:
    """Report on a WenxinDeployment.

    Args:
        seen: What there was at the pass's beginning.
        plan: What should exist.
        failure: What could not be done about the difference.
        now: The time of transitions.
    """
    metadata, pods = seen.resource["metadata"], progress.see(seen, plan, now)
    conditions = settle(_deployment_findings(seen, plan, failure, pods, now), seen.resource, now)
    present = len(pods.newest) + len(pods.older)
    spec = plan.decision.target.spec if plan.decision.target else plan.decision.spec
    selector = ",".join(f"{key}={value}" for key, value in plan.leaders.items())
    status = DeploymentStatus(
        observed_generation=metadata["generation"],
        replicas=present,
        ready_replicas=sum(pod.ready for pod in (*pods.newest, *pods.older)),
        selector=selector,
        gpus=present * gpus_per_replica(spec) if spec else 0,
        endpoint=names.endpoint(metadata["name"], metadata["namespace"]),
        model=_served_model(seen, plan),
        conditions=conditions,
    )
    return Report(dump(status), tuple(events(seen.resource, conditions)))


def _deployment_findings(
    seen: DeploymentSnapshot, plan: DeploymentPlan, failure: Failure | None, pods: Progress, now: datetime
) -> Iterator[Finding]:
    accepted = _accepted(plan, failure)
    model_ready = _model_ready(seen)
    progressing = _progressing(seen, plan, failure, pods)
    yield accepted
    yield model_ready
    yield progressing
    yield _available(plan, pods)
    refused = failure.problem() if failure and failure.kind in scalers.SCALERS else None
    if cached := caching.ready(seen, plan):
        yield cached
    if scaled := scaling.active(seen, plan, refused, now):
        yield scaled
    yield _ready(accepted, model_ready, progressing, plan, pods)


def _accepted(plan: DeploymentPlan, failure: Failure | None) -> Finding:
    going_on = "; the last accepted spec goes on being served" if plan.decision.target else ""
    if refusal := plan.decision.refusal:
        return finding("Accepted", refusal.reason, f"{refusal}{going_on}")
    if failure and failure.of_the_spec:
        return finding("Accepted", "RejectedByCluster", f"{failure.problem().message}{going_on}")
    return Finding("Accepted", holds=True, reason="Valid", message="the spec is valid")


def _model_ready(seen: DeploymentSnapshot) -> Finding:
    reference = seen.spec.model.ref if isinstance(seen.spec, DeploymentSpec) else None
    inline = None if reference or isinstance(seen.spec, SpecError) else seen.spec.model.origin
    if seen.model is None and reference:
        missing = f"spec.model.ref: this namespace has no WenxinModel {reference}; create it, or name another"
        return finding("ModelReady", "ModelNotFound", missing)
    if seen.model is None or (inline and inline != seen.model.origin):
        return finding("ModelReady", "Inspecting", "the weights are about to be inspected")
    if problem := seen.model.problem:
        # An inline source stands at another place in this resource than in the model that it makes.
        told = _INLINE.sub(r"spec.model.\1", problem.message) if inline else problem.message
        words = told if inline else f"WenxinModel {seen.model.name}: {told}"
        return Finding("ModelReady", holds=False, reason=problem.reason, message=words)
    return Finding("ModelReady", holds=True, reason="Verified", message=f"WenxinModel {seen.model.name} is ready")


def _progressing(seen: DeploymentSnapshot, plan: DeploymentPlan, failure: Failure | None, pods: Progress) -> Finding:
    if hindered := _hindered(plan, failure):
        return hindered
    if stuck := pods.problem:
        return finding("Progressing", stuck.reason, stuck.message)
    if plan.decision.held and _spec_waits(seen, plan):
        return finding("Progressing", "WaitingForModel", "the new spec is rolled out once its weights are verified")
    if pods.complete:
        return finding("Progressing", "RolloutComplete", f"all {pods.wanted} {pods.noun} are of the newest revision")
    return Finding("Progressing", holds=True, reason="RollingOut", message=pods.rolling_out())


def _hindered(plan: DeploymentPlan, failure: Failure | None) -> Finding | None:
    """Why the newest pods could not even be asked for."""
    if failure and failure.of_the_spec:
        return finding("Progressing", "NotAccepted", "the pods that the spec asks for are refused; see Accepted")
    if failure and not isinstance(failure.error, Conflict):
        return finding("Progressing", failure.problem().reason, failure.problem().message)
    if plan.decision.target:
        return None
    if plan.decision.held:
        return finding("Progressing", "WaitingForModel", "pods are made once the weights are verified")
    return finding("Progressing", "NotAccepted", "no spec has been accepted yet")


def _available(plan: DeploymentPlan, pods: Progress) -> Finding:
    if pods.any_answering:
        return Finding("Available", holds=True, reason="Answering", message="the endpoint answers")
    if plan.decision.target and pods.wanted == 0:
        return finding("Available", "ScaledToZero", "spec.replicas is 0")
    return finding("Available", "NoPodAnswers", "no pod is ready and in the Service's EndpointSlice")


def _ready(
    accepted: Finding, model_ready: Finding, progressing: Finding, plan: DeploymentPlan, pods: Progress
) -> Finding:
    if not accepted.holds:
        return finding("Ready", "NotAccepted", accepted.message)
    if plan.decision.target is None or progressing.reason == "WaitingForModel":
        return Finding("Ready", holds=False, reason=model_ready.reason, message=model_ready.message)
    if pods.wanted == 0 and pods.complete:
        return finding("Ready", "ScaledToZero", f"spec.replicas is 0; `kubectl scale` brings {pods.noun} back")
    if pods.complete:
        words = f"{pods.wanted} of {pods.wanted} {pods.noun} answer"
        return Finding("Ready", holds=True, reason="Answering", message=words)
    return Finding("Ready", holds=False, reason=progressing.reason, message=progressing.message)


def _spec_waits(seen: DeploymentSnapshot, plan: DeploymentPlan) -> bool:
    """Whether pods follow an older spec than the accepted one (the count aside), or older weights."""
    target, spec = plan.decision.target, plan.decision.spec
    if target is None or spec is None:
        return False
    other_weights = seen.model is not None and seen.model.origin != target.model.source
    return other_weights or target.spec != spec.model_copy(update={"replicas": target.spec.replicas})


def _served_model(seen: DeploymentSnapshot, plan: DeploymentPlan) -> ServedModel:
    target = plan.decision.target
    if target is None:
        spec = plan.decision.spec
        return ServedModel(name=spec.model.ref or seen.resource["metadata"]["name"] if spec else None)
    facts = target.model.facts
    return ServedModel(
        name=target.model.name,
        digest=target.model.digest,
        architecture=facts.architecture,
        parameters=facts.parameters,
        active_parameters=facts.active_parameters,
        context_length=facts.context_length,
    )


def dump(status: DeploymentStatus | ModelStatus) -> Raw:
    """A status as the API takes it."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
