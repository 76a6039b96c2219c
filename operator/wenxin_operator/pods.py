"""What a pod's status says, in words that stay the same from pass to pass while nothing changes. Pure.

The kubelet's own messages carry counters and alternate between two reasons for one fact; a status that repeated them
would be written for ever.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wenxin_operator.names import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_FLAGS,
    ANNOTATION_ROOM,
    LABEL_GROUP,
    LABEL_GROUP_INDEX,
    LABEL_POD_INDEX,
    LABEL_REVISION,
    LABEL_WORKER_INDEX,
    Raw,
)

LONGEST = 1000  # characters of someone else's message in ours

_PULL_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_WAITING_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_PULL_NOISE = re.compile(r'^Back-off pulling image "[^"]*":? ?|^ErrImagePull: ')
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Why something does not come to be.

    Attributes:
        reason: CamelCase, for programs.
        message: For people; a clause without a full stop.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodSeen:
    """One serving pod.

    Attributes:
        revision: Hash of the template it was made from.
        flags: Name of the ConfigMap it mounts.
        ready: Its readiness probe succeeds and it is not on its way out.
        leaving: It is being deleted, or has ended for good; it counts no more.
        problem: What keeps it from being ready, where its status tells.
        group: Name of the group of pods that it is part of; empty for a pod that is a replica by itself.
        node_rank: Its number in the group.
        since: When it began to wait for a node or to be unready, or was made; None where nothing tells.
        room: What it needs to be placed, as `rollout.Room` writes it; empty where it was made without.
        cost: Its deletion cost.
        ready_at: When it became ready; None where it is not, or nothing tells.
    """

    name: str
    revision: str
    flags: str
    ready: bool
    leaving: bool
    problem: Problem | None
    group: str = ""
    node_rank: int = 0
    since: datetime | None = None
    room: str = ""
    cost: int = 0
    ready_at: datetime | None = None

    @property
    def leads(self) -> bool:
        """Whether it answers requests, for itself or for its group."""
        return self.node_rank == 0


def see(pod: Raw) -> PodSeen:
    """Sort one pod's status."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    group, number = _place(labels)
    leaving = bool(metadata.get("deletionTimestamp")) or status.get("phase") in ("Failed", "Succeeded")
    ready = not leaving and _condition(status, "Ready").get("status") == "True"
    return PodSeen(
        name=metadata["name"],
        revision=labels.get(LABEL_REVISION, ""),
        flags=annotations.get(ANNOTATION_FLAGS, ""),
        ready=ready,
        leaving=leaving,
        problem=None if ready or leaving else problem(pod),
        group=group,
        node_rank=int(number),
        since=_since(metadata, status),
        room=annotations.get(ANNOTATION_ROOM, ""),
        cost=_cost(annotations.get(ANNOTATION_DELETION_COST, "")),
        ready_at=_moment(_condition(status, "Ready").get("lastTransitionTime")) if ready else None,
    )


def _since(metadata: Raw, status: Raw) -> datetime | None:
    """When it became what it is: the scheduler's word counts while it has no node, then that of its readiness."""
    conditions = (_condition(status, kind) for kind in ("PodScheduled", "Ready"))
    told = (one.get("lastTransitionTime") for one in conditions if one.get("status") == "False")
    moment = next((time for time in told if time), None) or metadata.get("creationTimestamp")
    return _moment(moment)


def _moment(written: str | None) -> datetime | None:
    return datetime.fromisoformat(written) if written else None


def _cost(text: str) -> int:
    """As Kubernetes reads it: 0 where it is no number."""
    return int(text) if re.fullmatch(r"-?(0|[1-9][0-9]{0,9})", text) else 0


def _place(labels: dict[str, str]) -> tuple[str, str]:
    """A pod's group and its number there. A StatefulSet is a group, a LeaderWorkerSet numbers its groups.

    Its pods stem from StatefulSets too, whose numbers mean something else.
    """
    if LABEL_GROUP in labels:
        return labels[LABEL_GROUP], labels.get(LABEL_POD_INDEX, "0")
    if LABEL_GROUP_INDEX in labels:
        return labels[LABEL_GROUP_INDEX], labels.get(LABEL_WORKER_INDEX, "0")
    return "", "0"


def problem(pod: Raw) -> Problem | None:
    """What keeps a pod from running: the scheduler, its image, its start, or the program in it."""
    status = pod.get("status") or {}
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return Problem("Unschedulable", _cut(_first_sentence(scheduled.get("message", ""))))
    for container in status.get("containerStatuses") or ():
        if not container.get("ready") and (found := _container_problem(container)):
            return found
    return None


def termination(terminated: Raw, otherwise: str = "CrashLoopBackOff") -> Problem:
    """Why a container ended: its own words (JSON with reason and message), else what is known.

    Args:
        terminated: The container's state.
        otherwise: The reason when it left no word.
    """
    words = terminated.get("message", "")
    told = result(words)
    if told and isinstance(told.get("reason"), str) and _REASON.fullmatch(told["reason"]):
        return Problem(told["reason"], _cut(str(told.get("message", ""))))
    if terminated.get("reason") == "OOMKilled":
        return Problem("OOMKilled", "the container used more memory than its limit")
    last_line = next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "")
    ended = f"the container ended with exit code {terminated.get('exitCode', 0)}"
    return Problem(otherwise, _cut(f"{ended}: {last_line}" if last_line else ended))


def result(words: str) -> Raw | None:
    """The JSON object in a termination message; None where it is something else, such as the end of a log."""
    try:
        told: Any = json.loads(words)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def last_termination(pod: Raw) -> Raw | None:
    """How the pod's first container ended most recently."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        for state in ("state", "lastState"):
            if ended := (container.get(state) or {}).get("terminated"):
                return dict(ended)
    return None


def _container_problem(container: Raw) -> Problem | None:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in _PULL_REASONS:
        return Problem("ImagePullBackOff", _pull_message(container.get("image", ""), waiting.get("message", "")))
    if waiting.get("reason") in _WAITING_REASONS:
        return Problem(waiting["reason"], _cut(waiting.get("message", "")))
    if (state.get("terminated") or {}).get("exitCode") == 0:
        return None  # the pod's phase, Succeeded, comes one update later
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    return termination(ended) if ended else None


def _first_sentence(words: str) -> str:
    """What the scheduler found; what follows is about other pods and claims ("no new claims to deallocate")."""
    return re.split(r"\.(?: |$)", words, maxsplit=1)[0].rstrip(",")


def _pull_message(image: str, words: str) -> str:
    while (shorter := _PULL_NOISE.sub("", words, count=1)) != words:
        words = shorter
    return _cut(f"image {image} cannot be pulled: {words}".rstrip(": "))


def _condition(status: Raw, kind: str) -> Raw:
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
