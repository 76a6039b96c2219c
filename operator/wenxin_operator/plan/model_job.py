"""The whole plan of a WenxinModel: Jobs that read the checkpoint, one attempt after the other until one succeeds."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from wenxin_operator.api.fields import claim_path
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.errors import SpecError
from wenxin_operator.names import (
    COMPONENT_INSPECT,
    JOB,
    LABEL_ATTEMPT,
    LABEL_SOURCE,
    Raw,
    child_labels,
    content_hash,
    inspect_job,
)
from wenxin_operator.observe import JobSeen, ModelSnapshot
from wenxin_operator.plan.manifest import (
    POD_SECURITY,
    TMP_MOUNT,
    TMP_VOLUME,
    OperatorSettings,
    Owner,
    Plan,
    container,
    model_mount,
    model_volume,
)
from wenxin_operator.plan.network import inspect_policy_of
from wenxin_operator.pods import Problem

FIRST_WAIT = 10.0  # seconds
LONGEST_WAIT = 300.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an inspection that succeeded found."""

    source_hash: str
    digest: str
    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class ModelPlan(Plan):
    """What should exist for a WenxinModel, and what is known of it.

    Attributes:
        verdict: What the weights at the present source are, once an inspection has succeeded.
        problem: Why there is no verdict.
    """

    verdict: Verdict | None = None
    problem: Problem | None = None


def plan(seen: ModelSnapshot, settings: OperatorSettings, now: datetime) -> ModelPlan:
    """Plan everything.

    Args:
        seen: What there is.
        settings: The operator's.
        now: Whether a further attempt is due.
    """
    if isinstance(seen.spec, SpecError):
        return ModelPlan(prune=False, problem=Problem(seen.spec.reason, str(seen.spec)))
    where = claim_path(seen.spec.source)
    policy = inspect_policy_of(Owner.of(seen.resource))
    if seen.claim is None:
        missing = f"spec.source: this namespace has no PersistentVolumeClaim {where.claim}; create it, or name another"
        return ModelPlan((policy,), _kept(seen.jobs), problem=Problem("ClaimNotFound", missing))
    source_hash = content_hash([seen.spec.source, seen.claim["metadata"]["uid"]], length=16)
    jobs = [job for job in seen.jobs if job.source_hash == source_hash]
    if verdict := _verdict(seen, source_hash, jobs):
        return ModelPlan((policy,), _kept(jobs[-1:]), verdict=verdict)
    return _attempts(seen, seen.spec, policy, source_hash, jobs, settings, now)


def wait_after(attempt: int) -> timedelta:
    """How long a failed attempt is left to rest: 10 s, 20 s, 40 s and so on up to 5 minutes."""
    return timedelta(seconds=min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 10)))


def _verdict(seen: ModelSnapshot, source_hash: str, jobs: list[JobSeen]) -> Verdict | None:
    """The newest result; else the one in the status, for a Job that has done its work may be deleted."""
    for job in reversed(jobs):
        facts = parse(ModelFacts, job.result, "result") if job.result else None
        if job.result and isinstance(facts, ModelFacts):
            return Verdict(source_hash, job.result["digest"], facts)
    status = seen.status
    if status.source_hash == source_hash and status.digest and status.facts:
        return Verdict(source_hash, status.digest, status.facts)
    return None


def _attempts(
    seen: ModelSnapshot,
    spec: ModelSpec,
    policy: Raw,
    source_hash: str,
    jobs: list[JobSeen],
    settings: OperatorSettings,
    now: datetime,
) -> ModelPlan:
    """The attempt under way, or the next one when it is due; beside it the last that ended, for its words."""
    ended = [job for job in jobs if job.finished]
    last = ended[-1] if ended else None
    under_way = jobs[-1] if jobs and not jobs[-1].finished else None
    problem = last.problem if last else under_way.problem if under_way else None
    retry_at = last.finished + wait_after(last.attempt) if last and last.finished and not under_way else None
    if retry_at and now < retry_at:
        return ModelPlan((policy,), _kept(ended[-1:]), problem=problem, retry_at=retry_at)
    attempt = under_way.attempt if under_way else last.attempt + 1 if last else 1
    # Named by what it reads and by its image: a Job that waits for an image of an older operator is replaced.
    job = inspect_job_of(Owner.of(seen.resource), spec, source_hash, attempt, settings)
    return ModelPlan((policy, job), _kept(ended[-1:]), problem=problem)


def _kept(jobs: Iterable[JobSeen]) -> frozenset[tuple[str, str]]:
    return frozenset((JOB, job.name) for job in jobs)


def inspect_job_of(owner: Owner, spec: ModelSpec, source_hash: str, attempt: int, settings: OperatorSettings) -> Raw:
    """One attempt. It stays after its end: its pod holds the words that the status repeats."""
    where, model = claim_path(spec.source), owner.key.name
    name = inspect_job(model, [source_hash, settings.runtime_image], attempt)
    inspect = container(
        "inspect",
        settings.runtime_image,
        settings,
        args=["inspect", where.model_dir],
        resources={"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        volumeMounts=[model_mount(where), TMP_MOUNT],
    )
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "containers": [inspect],
        "volumes": [model_volume(where), TMP_VOLUME],
    }
    return owner.child(
        JOB,
        name,
        COMPONENT_INSPECT,
        labels={LABEL_SOURCE: source_hash, LABEL_ATTEMPT: str(attempt)},
        spec={
            "backoffLimit": 0,  # the operator counts attempts, across Jobs
            "template": {"metadata": {"labels": child_labels(owner.key, COMPONENT_INSPECT)}, "spec": pod},
        },
    )
