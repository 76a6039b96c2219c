"""What an inspect or download Job, and its pod, say: how the attempt goes, what it found, why it failed. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from wenxin_operator import pods
from wenxin_operator.names import (
    COMPONENT_DOWNLOAD,
    LABEL_ATTEMPT,
    LABEL_COMPONENT,
    LABEL_JOB_NAME,
    LABEL_MEANS,
    LABEL_SOURCE,
    Raw,
)
from wenxin_operator.pods import Problem


@dataclass(frozen=True, slots=True)
class JobSeen:
    """One inspect or download Job.

    Attributes:
        source_hash: Which contents it is about.
        means: How it fetches them.
        attempt: 1 for the first.
        finished: When it ended; None while it has not.
        result: What the inspection printed, once it has succeeded.
        problem: Why it failed, or what keeps it from starting.
        pod: Its pod, while that runs.
        node: Where its pod has been placed and has yet to start; empty otherwise.
    """

    name: str
    source_hash: str
    means: str
    attempt: int
    finished: datetime | None
    result: Raw | None
    problem: Problem | None
    pod: Raw | None = None
    node: str = ""


def see(job: Raw, job_pods: Sequence[Raw]) -> JobSeen:
    """Read one Job and, among the pods of its model, its own."""
    name, labels = job["metadata"]["name"], _labels(job)
    pod = next((one for one in job_pods if _labels(one).get(LABEL_JOB_NAME) == name), None)
    outcome, finished = _job_outcome(job)
    if pod and not _ended(pod):
        # The watch of pods may lag behind that of Jobs: a Job has ended for us when its pod's words are there too.
        outcome, finished = None, None
    found, trouble = None, None
    if outcome == "Failed":
        trouble = _failure(job, pod)
    elif outcome == "Complete":
        found = _found(pod)
        trouble = None if found else Problem("ResultLost", "the inspection succeeded, but its result is gone")
    elif pod and not _ended(pod):
        trouble = pods.problem(pod) or _not_started(pod)
    return JobSeen(
        name=name,
        source_hash=labels.get(LABEL_SOURCE, ""),
        means=labels.get(LABEL_MEANS, ""),
        attempt=int(labels.get(LABEL_ATTEMPT, "1")),
        finished=finished,
        result=found,
        problem=trouble,
        pod=pod if pod and (pod.get("status") or {}).get("phase") == "Running" else None,
        node=_placed_on(pod) if pod else "",
    )


def _not_started(pod: Raw) -> Problem | None:
    """Its image, its claim: what the node waits for stands in events, which we do not watch."""
    name, node = pod["metadata"]["name"], _placed_on(pod)
    words = f"pod {name} has yet to start on node {node}; `kubectl describe pod {name}` says what it waits for"
    return Problem("WaitingForPod", words) if node else None


def _placed_on(pod: Raw) -> str:
    """The node that a pod which has not started is on; empty for any other."""
    pending = (pod.get("status") or {}).get("phase") == "Pending"
    return str((pod.get("spec") or {}).get("nodeName", "")) if pending else ""


def writers(job_pods: Iterable[Raw]) -> frozenset[str]:
    """Names of the Jobs, there or gone, with a pod that may still write what it downloads."""
    of_downloads = (one for one in job_pods if _labels(one).get(LABEL_COMPONENT) == COMPONENT_DOWNLOAD)
    return frozenset(_labels(one).get(LABEL_JOB_NAME, "") for one in of_downloads if not _ended(one))


def _labels(thing: Raw) -> dict[str, str]:
    return thing["metadata"].get("labels") or {}


def _ended(pod: Raw) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _job_outcome(job: Raw) -> tuple[Literal["Complete", "Failed"] | None, datetime | None]:
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return condition["type"], datetime.fromisoformat(condition["lastTransitionTime"])
    return None, None


def _found(pod: Raw | None) -> Raw | None:
    ended = pods.last_termination(pod) if pod else None
    found = pods.result(ended.get("message", "")) if ended else None
    return found if found and isinstance(found.get("digest"), str) else None


def _failure(job: Raw, pod: Raw | None) -> Problem:
    downloads = _labels(job).get(LABEL_COMPONENT) == COMPONENT_DOWNLOAD
    reason, what = ("DownloadFailed", "download") if downloads else ("InspectionFailed", "inspection")
    if pod and (ended := pods.last_termination(pod)):
        return pods.termination(ended, otherwise=reason)
    status = (pod or job).get("status") or {}  # an evicted pod says why itself
    return Problem(status.get("reason") or reason, status.get("message") or f"the {what} did not finish")
