"""Plan and present in, what to do about the difference out. Pure; at rest there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

from wenxin_operator.drift import drift
from wenxin_operator.names import ANNOTATION_APPLIED, JOB, PERSISTENT_VOLUME_CLAIM, Raw, content_hash
from wenxin_operator.plan.manifest import Plan

CREATED_ONCE = frozenset({JOB})
"""Kinds that are named by their content and whose spec the API server lets nobody change."""

NEVER_PRUNED = frozenset({PERSISTENT_VOLUME_CLAIM})
"""Kinds that go with their owner and not before: data, which pods of an earlier spec may still read."""


@dataclass(frozen=True, slots=True)
class Application:
    """One manifest to apply.

    Attributes:
        why: For the log: what is new or has drifted.
        new: We do not know of an object of that name that is ours.
    """

    manifest: Raw
    why: str
    new: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do, in this order."""

    apply: tuple[Application, ...]
    prune: tuple[Raw, ...]

    def __bool__(self) -> bool:
        return bool(self.apply or self.prune)


def decide(plan: Plan, children: Sequence[Raw]) -> Changes:
    """Compare what should exist with what is ours.

    Args:
        plan: What should exist.
        children: Live objects that the planned resource controls.
    """
    live = {_identity(child): child for child in children}
    wanted = {_identity(manifest): manifest for manifest in plan.objects}
    applications = (_compare(manifest, live.get(identity)) for identity, manifest in wanted.items())
    superfluous = (child for identity, child in live.items() if identity not in wanted and identity not in plan.keep)
    prune = (child for child in superfluous if not _leaving(child) and child["kind"] not in NEVER_PRUNED)
    return Changes(
        apply=tuple(application for application in applications if application),
        prune=tuple(prune) if plan.prune else (),
    )


def sealed(manifest: Raw) -> Raw:
    """The manifest with its own hash: what is no longer planned is found by it, and taken away by the next apply."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_APPLIED: content_hash(manifest, length=16)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _compare(manifest: Raw, live: Raw | None) -> Application | None:
    planned = sealed(manifest)
    if live is None:
        return Application(planned, "new", new=True)
    if manifest["kind"] in CREATED_ONCE:
        return None
    where = drift(planned, live)
    return Application(planned, f"differs at {where}", new=False) if where else None


def _identity(thing: Raw) -> tuple[str, str]:
    return thing["kind"], thing["metadata"]["name"]


def _leaving(thing: Raw) -> bool:
    return bool(thing["metadata"].get("deletionTimestamp"))
