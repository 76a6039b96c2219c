"""The whole plan of a WenxinModel: Jobs that fetch or read the checkpoint, one after the other until one succeeds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from wenxin_operator.api.model import ModelSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_operator.errors import SpecError
from wenxin_operator.jobs import JobSeen
from wenxin_operator.names import JOB, PERSISTENT_VOLUME_CLAIM, Raw, content_hash
from wenxin_operator.observe import ModelSnapshot
from wenxin_operator.plan import download, inspection
from wenxin_operator.plan.manifest import OperatorSettings, Owner, Plan
from wenxin_operator.plan.network import download_policy_of, inspect_policy_of
from wenxin_operator.pods import Problem

FIRST_WAIT = 10.0  # seconds
LONGEST_WAIT = 300.0
PROGRESS_SECONDS = 10.0
"""How often a download is asked how far it is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an inspection that succeeded found.

    Attributes:
        location: Where the weights lie, as pvc://CLAIM/PATH.
        revision: What a download fetched: a commit, where the hub has such.
    """

    source_hash: str
    digest: str
    facts: ModelFacts
    location: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelPlan(Plan):
    """What should exist for a WenxinModel, and what is known of it.

    Attributes:
        verdict: What the weights at the present source are, once a Job has succeeded.
        problem: Why there is no verdict.
        downloading: A download runs.
    """

    verdict: Verdict | None = None
    problem: Problem | None = None
    downloading: bool = False


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be done once for the weights of a spec.

    Attributes:
        standing: What there is besides the Jobs.
        source_hash: Of the contents that it is about.
        means: As the Jobs' label says it.
        job: Makes the Job of an attempt.
        location: Where the weights will lie.
    """

    standing: tuple[Raw, ...]
    source_hash: str
    means: str
    job: Callable[[int], Raw]
    location: str


def plan(seen: ModelSnapshot, settings: OperatorSettings, now: datetime) -> ModelPlan:
    """Plan everything.

    Args:
        seen: What there is.
        settings: The operator's.
        now: Whether a further attempt is due.
    """
    if isinstance(seen.spec, SpecError):
        return ModelPlan(prune=False, problem=Problem(seen.spec.reason, str(seen.spec)))
    owner = Owner.of(seen.resource)
    standing = _standing(owner, seen.spec, seen.claim, settings)
    if seen.claim is None:
        making = any(one["kind"] == PERSISTENT_VOLUME_CLAIM for one in standing)
        problem = None if making else _claim_not_found(owner, seen.spec)
        return ModelPlan(standing, _kept(seen.jobs), problem=problem)
    task = _task(owner, seen.spec, seen.claim, standing, settings)
    jobs = [job for job in seen.jobs if job.source_hash == task.source_hash]
    if verdict := _verdict(seen, task, jobs):
        return ModelPlan(standing, _kept(jobs[-1:]), verdict=verdict)
    return _attempts(seen, task, jobs, now)


def wait_after(attempt: int) -> timedelta:
    """How long a failed attempt is left to rest: 10 s, 20 s, 40 s and so on up to 5 minutes."""
    return timedelta(seconds=min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 10)))


def _standing(owner: Owner, spec: ModelSpec, claim: Raw | None, settings: OperatorSettings) -> tuple[Raw, ...]:
    if not spec.downloads:
        return (inspect_policy_of(owner),)
    made = (download.claim(owner, spec, claim), download.checksums(owner, spec))
    return (download_policy_of(owner, spec, settings), *(one for one in made if one))


def _task(
    owner: Owner,
    spec: ModelSpec,
    claim: Raw,
    standing: tuple[Raw, ...],
    settings: OperatorSettings,
) -> _Task:
    source_hash = content_hash([spec.origin, claim["metadata"]["uid"]], length=16)
    means, make = (download.means(spec), download.job) if spec.downloads else ("", inspection.job)
    where = spec.where(owner.key.name)
    return _Task(
        standing=standing,
        source_hash=source_hash,
        means=means,
        job=lambda attempt: make(owner, spec, source_hash, attempt, settings),
        location=f"pvc://{where.claim}/{where.path}".rstrip("/"),
    )


def _claim_not_found(owner: Owner, spec: ModelSpec) -> Problem:
    name = spec.where(owner.key.name).claim
    at = "spec.storage.existingClaim" if spec.downloads else "spec.source"
    words = f"{at}: this namespace has no PersistentVolumeClaim {name}; create it, or name another"
    return Problem("ClaimNotFound", words)


def _verdict(seen: ModelSnapshot, task: _Task, jobs: list[JobSeen]) -> Verdict | None:
    """The newest result; else the one in the status, for a Job that has done its work may be deleted."""
    for job in reversed(jobs):
        facts = parse(ModelFacts, job.result, "result") if job.result else None
        if job.result and isinstance(facts, ModelFacts):
            revision = job.result.get("revision")
            fetched = revision if isinstance(revision, str) else None
            return Verdict(task.source_hash, job.result["digest"], facts, task.location, fetched)
    status = seen.status
    if status.source_hash == task.source_hash and status.digest and status.facts:
        return Verdict(task.source_hash, status.digest, status.facts, task.location, status.revision)
    return None


def _attempts(seen: ModelSnapshot, task: _Task, jobs: list[JobSeen], now: datetime) -> ModelPlan:
    """The attempt under way, or the next one when it is due; beside it the last that ended, for its words."""
    ended = [job for job in jobs if job.finished]
    last = ended[-1] if ended else None
    under_way = jobs[-1] if jobs and not jobs[-1].finished and jobs[-1].means == task.means else None
    problem = last.problem if last else under_way.problem if under_way else None
    keep = _kept(ended[-1:])
    if under_way and under_way.pod:
        # It runs, with whatever image: what it has fetched is worth more than a new operator's image.
        keep |= _kept([under_way])
        if not task.means:
            return ModelPlan(task.standing, keep, problem=problem)
        again, pod = now + timedelta(seconds=PROGRESS_SECONDS), under_way.pod["metadata"]["name"]
        return ModelPlan(task.standing, keep, problem=problem, retry_at=again, ask=frozenset({pod}), downloading=True)
    rests = last is not None and last.means == task.means and not under_way
    retry_at = last.finished + wait_after(last.attempt) if last and last.finished and rests else None
    if retry_at and now < retry_at:
        return ModelPlan(task.standing, keep, problem=problem, retry_at=retry_at)
    attempt = under_way.attempt if under_way else last.attempt + 1 if last else 1
    job = task.job(attempt)
    if others := seen.writers - {job["metadata"]["name"]}:
        return ModelPlan(task.standing, keep, problem=_waits_for(others))
    return ModelPlan((*task.standing, job), keep, problem=problem)


def _waits_for(writers: Iterable[str]) -> Problem:
    """Two downloads of one model never write at the same time: the next one waits until the last pod is gone."""
    names = ", ".join(sorted(writers))
    return Problem(
        "WaitingForPod", f"the pod of Job {names} has not ended yet; if its node is lost, delete it by force"
    )


def _kept(jobs: Iterable[JobSeen]) -> frozenset[tuple[str, str]]:
    return frozenset((JOB, job.name) for job in jobs)
