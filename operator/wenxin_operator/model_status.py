"""What a pass over a WenxinModel reports: conditions, what is known of the weights, how far a download is. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from wenxin_operator.api.model import Download, ModelSpec, ModelStatus
from wenxin_operator.conditions import Finding, events, finding, settle
from wenxin_operator.errors import Conflict, SpecError
from wenxin_operator.observe import ModelSnapshot
from wenxin_operator.plan.model_job import ModelPlan, Verdict
from wenxin_operator.pods import Problem
from wenxin_operator.status import Failure, Report, dump

_SHARED = "ReadWriteMany"
STEPS: Mapping[str, str] = {
    "NotFound": "check spec.source or spec.preset, and spec.revision",
    "Unauthorized": "put a token that may read it into the Secret of spec.credentialsSecretRef",
    "NotEnoughSpace": "raise spec.storage.size, or make room on the claim",
    "ChecksumMismatch": "where the source is as it should be, correct spec.checksums",
    "InsecureSource": "trust its authority with spec.caConfigMapRef",
    "InvalidListing": "spec.source is to be a folder with config.json and *.safetensors",
    "DownloadFailed": "see `kubectl logs` of the Job's pod; spec.mirror and spec.proxy lead past what is in the way",
}
"""What a person can do about a download that failed."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def report(seen: ModelSnapshot, plan: ModelPlan, failure: Failure | None, now: datetime) -> Report:
    """Report on a WenxinModel.

    Args:
        seen: What there was at the pass's beginning.
        plan: What should exist.
        failure: What could not be done about the difference.
        now: The time of transitions.
    """
    conditions = settle(_findings(seen, plan, failure), seen.resource, now)
    verdict, download = plan.verdict, _download(seen, plan)
    size = (verdict.facts.bytes if verdict else 0) or (download.total_bytes if download else 0)
    status = ModelStatus(
        observed_generation=seen.resource["metadata"]["generation"],
        conditions=conditions,
        origin=seen.spec.origin if isinstance(seen.spec, ModelSpec) else None,
        location=verdict.location if verdict else None,
        revision=verdict.revision if verdict else None,
        progress=_progress(seen, plan, download),
        size=human(size) if size else None,
        download=download,
        source_hash=verdict.source_hash if verdict else None,
        digest=verdict.digest if verdict else None,
        facts=verdict.facts if verdict else None,
    )
    return Report(dump(status), tuple(events(seen.resource, conditions)))


def human(size: float) -> str:
    """Bytes with three digits and a unit."""
    for unit in _UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} {_UNITS[-1]}"


def read_progress(words: Any) -> Download | None:
    """Read what a download says at /load; None where it says something else, or does not know yet what it fetches."""
    if not isinstance(words, Mapping):
        return None
    try:
        done, total, files, total_files, speed = (
            max(0, int(words[field])) for field in ("done", "total", "files", "files_total", "bytes_per_second")
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not total:
        return None
    return Download(
        done_bytes=min(done, total),
        total_bytes=total,
        files=files,
        total_files=total_files,
        bytes_per_second=speed,
        seconds_left=max(0, total - done) // speed if speed else None,
    )


def _download(seen: ModelSnapshot, plan: ModelPlan) -> Download | None:
    """How far it is now; else how far it was, for what is on the claim stays there."""
    if isinstance(seen.spec, SpecError):
        return seen.status.download
    if not seen.spec.downloads:
        return None
    known = seen.status.download if seen.status.origin == seen.spec.origin else None
    last = read_progress(seen.words) or known
    if last is None:
        return None
    if plan.verdict:
        return last.model_copy(
            update={
                "done_bytes": last.total_bytes,
                "files": last.total_files,
                "bytes_per_second": 0,
                "seconds_left": None,
            }
        )
    return last if plan.downloading else last.model_copy(update={"bytes_per_second": 0, "seconds_left": None})


def _progress(seen: ModelSnapshot, plan: ModelPlan, download: Download | None) -> str | None:
    if isinstance(seen.spec, SpecError) or not seen.spec.downloads:
        return None
    if plan.verdict:
        return "100 %"
    # 100 % is said when it is verified, and not before.
    return f"{min(99, 100 * download.done_bytes // download.total_bytes)} %" if download else "0 %"


def _findings(seen: ModelSnapshot, plan: ModelPlan, failure: Failure | None) -> Iterator[Finding]:
    if isinstance(seen.spec, SpecError):
        yield finding("Accepted", seen.spec.reason, str(seen.spec))
        yield finding("Ready", "NotAccepted", str(seen.spec))
        return
    yield Finding("Accepted", holds=True, reason="Valid", message="the spec is valid")
    if plan.verdict:
        yield Finding("Ready", holds=True, reason="Verified", message=_described(seen, seen.spec, plan.verdict))
    elif failure and not isinstance(failure.error, Conflict):
        yield finding("Ready", failure.problem().reason, failure.problem().message)
    elif plan.problem is None or read_progress(seen.words):
        # The words stay the same while the numbers change: a condition is no place for a counter.
        doing = "downloads" if seen.spec.downloads else "reads"
        reason = "Downloading" if seen.spec.downloads else "Inspecting"
        yield finding("Ready", reason, f"a Job {doing} {seen.spec.origin}")
    else:
        yield finding("Ready", plan.problem.reason, "; ".join(_told(seen, plan.problem)))


def _told(seen: ModelSnapshot, problem: Problem) -> Iterator[str]:
    """What went wrong, what to do about it, and whether it is tried again."""
    yield problem.message
    yield from _apart(seen)
    if isinstance(seen.spec, ModelSpec) and seen.spec.downloads and (step := STEPS.get(problem.reason)):
        yield step
    if any(job.finished for job in seen.jobs) and problem.reason not in ("ClaimNotFound", "WaitingForPod"):
        yield "tried again within 5 minutes"


def _apart(seen: ModelSnapshot) -> Iterator[str]:
    """A Job's pod on another node than those that mount the claim waits for as long as they are there."""
    away = {job.node for job in seen.jobs if job.node and not job.finished}
    if not away or not seen.held_on - away or _shared(seen):
        return
    nodes = ", ".join(sorted(seen.held_on - away))
    yield (
        f"its claim can be mounted on one node at a time, and pods that serve it run on {nodes}: where the volume is"
        " bound to a node, scale these to 0 until the Job is done, or have a claim with ReadWriteMany"
    )


def _shared(seen: ModelSnapshot) -> bool:
    return _SHARED in (((seen.claim or {}).get("spec") or {}).get("accessModes") or ())


def _described(seen: ModelSnapshot, spec: ModelSpec, verdict: Verdict) -> str:
    facts = verdict.facts
    words = f"{facts.architecture} with {facts.parameters:,} parameters in {facts.dtype}"
    if not spec.downloads or _shared(seen):
        return words
    return f"{words}; its claim can be mounted on one node at a time, see spec.storage.accessModes"
