"""ONE PASS: observe -> plan -> decide -> apply -> status. Level-based; knows no kopf, no clock.

The world is read from a store (`Reader`) and written through `Writer`; both are protocols, so that every
story of a pass is told in tests without a cluster.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from wenxin_operator import changes, model_status, observe, scaling, status
from wenxin_operator.changes import Application, Changes
from wenxin_operator.errors import ApiError, Conflict, Forbidden, Invalid, NameTaken, NotFound
from wenxin_operator.events import Event
from wenxin_operator.load import Load
from wenxin_operator.names import ANNOTATION_DELETION_COST, POD, WENXIN_DEPLOYMENT, WENXIN_MODEL, Key, Raw
from wenxin_operator.observe import Reader as Reader  # noqa: PLC0414 - part of this module's seam
from wenxin_operator.plan import deployment as deployment_plan
from wenxin_operator.plan import model_job as model_plan
from wenxin_operator.plan.manifest import OperatorSettings as OperatorSettings  # noqa: PLC0414 - same
from wenxin_operator.plan.manifest import Plan
from wenxin_operator.status import Failure, Report

logger = logging.getLogger(__name__)

Words = Mapping[str, Any]
"""What pods answered at /load, by their names."""


class Writer(Protocol):
    """The API server. Every method but `emit` raises `errors.ApiError`."""

    async def read(self, kind: str, namespace: str, name: str) -> Raw | None:
        """GET one object past the store; None when absent. Asked before a child is made, lest we seize another's."""
        ...

    async def apply(self, manifest: Raw) -> Raw:
        """Server-side apply as `names.FIELD_MANAGER`, with force and strict field validation; returns the live one."""
        ...

    async def overwrite(self, manifest: Raw) -> Raw:
        """Merge-patch: lists become exactly the planned ones, other managers' items included; returns the live one."""
        ...

    async def delete(self, target: Raw) -> None:
        """Delete this very object (by uid) in the background; absent or replaced is fine."""
        ...

    async def apply_status(self, resource: Raw, status: Raw) -> Raw:
        """Server-side apply of the whole status of this very resource."""
        ...

    async def make_once(self, manifest: Raw) -> None:
        """Make an object that is never read; `PASSWORD` in its stringData is drawn. One of its name may be there."""
        ...

    async def annotate(self, thing: Raw, annotations: Mapping[str, str]) -> None:
        """Merge-patch annotations onto this very object; NotFound and Conflict when it is gone or replaced."""
        ...

    async def emit(self, event: Event) -> None:
        """Post an event. Best effort: a failure is logged, never raised."""
        ...

    async def ask(self, pod: Raw) -> Any:
        """What a pod of ours says at /load; None where it does not answer soon. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass came to.

    Attributes:
        requeue_after: Seconds until time alone makes another pass worthwhile; None when only changes do.
        error: What the queue retries with backoff; the user has already been told in the status.
        changed: Something was written.
    """

    requeue_after: float | None = None
    error: Exception | None = None
    changed: bool = False


async def reconcile(key: Key, reader: Reader, writer: Writer, settings: OperatorSettings, now: datetime) -> Outcome:
    """Bring the cluster one pass nearer to what the resource `key` asks for.

    Args:
        key: The resource.
        reader: What is known of the cluster.
        writer: How it is changed.
        settings: What plans depend on besides the resource.
        now: The time, with a time zone.
    """
    found = look(key, reader, settings, now)
    if found and found.plan.ask:
        found = look(key, reader, settings, now, await _words(found.plan.ask, key, reader, writer))
    if found is None:
        return Outcome()  # gone or going: the garbage collector takes its children
    todo = changes.decide(found.plan, found.children)
    lacking = await _make(found.plan.secrets, writer)  # which keeps nothing else from coming
    failure = await _mark(found.plan.costs, key, reader, writer)
    failure = failure or await _carry_out(todo, found.resource, reader, writer) or lacking
    told = await _tell(found.resource, found.report(failure), writer)
    wait = (found.plan.retry_at - now).total_seconds() if found.plan.retry_at else None
    return Outcome(wait, failure.error if failure else told.error, changed=bool(todo) or told.changed)


@dataclass(frozen=True, slots=True)
class Pass:
    """What is known before anything is written.

    Attributes:
        children: What the resource controls now.
        plan: What it should control.
        report: The status and events, given what went wrong.
    """

    resource: Raw
    children: tuple[Raw, ...]
    plan: Plan
    report: Callable[[Failure | None], Report]


def look(
    key: Key, reader: Reader, settings: OperatorSettings, now: datetime, words: Words | None = None
) -> Pass | None:
    """See and plan, and write nothing: what `kubectl wenxin plan` shows. None when the resource is gone or going.

    Args:
        key: The resource.
        reader: What is known of the cluster.
        settings: What plans depend on besides the resource.
        now: The time, with a time zone.
        words: What the pods that the plan asks about said at /load, by name; None before they are asked.
    """
    return _PASSES[key.kind](key, reader, settings, now, words)


def _deployment_pass(
    key: Key, reader: Reader, settings: OperatorSettings, now: datetime, words: Words | None
) -> Pass | None:
    # A pod that does not answer is missing: it is not idle for that.
    loads = None if words is None else {name: load for name, said in words.items() if (load := Load.parse(said))}
    busy = None if loads is None else {name: load.sequences for name, load in loads.items()}
    caches = {name: load.cache for name, load in (loads or {}).items() if load.cache}
    seen = observe.deployment(key, reader, busy, caches)
    if seen is None:
        return None
    plan = deployment_plan.plan(seen, settings, now)
    moments = (plan.retry_at, scaling.again_at(seen, now))
    plan = replace(plan, retry_at=min((moment for moment in moments if moment), default=None))
    return Pass(seen.resource, seen.children, plan, lambda failure: status.deployment(seen, plan, failure, now))


def _model_pass(
    key: Key, reader: Reader, settings: OperatorSettings, now: datetime, words: Words | None
) -> Pass | None:
    seen = observe.model(key, reader, words)
    if seen is None:
        return None
    plan = model_plan.plan(seen, settings, now)
    return Pass(seen.resource, seen.children, plan, lambda failure: model_status.report(seen, plan, failure, now))


_PASSES: Mapping[str, Callable[[Key, Reader, OperatorSettings, datetime, Words | None], Pass | None]] = {
    WENXIN_DEPLOYMENT: _deployment_pass,
    WENXIN_MODEL: _model_pass,
}


async def _words(asked: Iterable[str], key: Key, reader: Reader, writer: Writer) -> Words:
    """What pods say, by name; None of those that do not answer."""
    pods = [pod for name in sorted(asked) if (pod := reader.get(POD, key.namespace, name))]
    answers = await asyncio.gather(*map(writer.ask, pods))
    return {pod["metadata"]["name"]: said for pod, said in zip(pods, answers, strict=True)}


async def _mark(costs: Mapping[str, int], key: Key, reader: Reader, writer: Writer) -> Failure | None:
    """Write what each pod costs, before their number falls. A pod that is gone needs no mark.

    Without the right to, the number falls all the same: whom Kubernetes then chooses is its own affair.
    """
    marked = [(name, cost, pod) for name, cost in costs.items() if (pod := reader.get(POD, key.namespace, name))]
    for name, cost, pod in marked:
        try:
            await writer.annotate(pod, {ANNOTATION_DELETION_COST: str(cost)})
        except (NotFound, Conflict):
            continue
        except (Forbidden, Invalid) as error:
            logger.warning("the idlest pods may not be the first to go: %s", error)
            return None
        except ApiError as error:
            return Failure(POD, name, error)
    if marked:
        logger.info("marked %d pods with how busy each is: fewer are wanted", len(marked))
    return None


async def _make(secrets: Iterable[Raw], writer: Writer) -> Failure | None:
    for secret in secrets:
        try:
            await writer.make_once(secret)
        except ApiError as error:
            return Failure(*_identity(secret), error)
    return None


async def _carry_out(todo: Changes, resource: Raw, reader: Reader, writer: Writer) -> Failure | None:
    """Apply in order, then prune. The first failure ends it: what follows rests on what came before."""
    for application in todo.apply:
        try:
            await _apply(application, resource, reader, writer)
        except (ApiError, NameTaken) as error:
            return Failure(*_identity(application.manifest), error)
        logger.info("applied %s %s: %s", *_identity(application.manifest), application.why)
    for child in todo.prune:
        try:
            await writer.delete(child)
        except ApiError as error:
            return Failure(*_identity(child), error)
        logger.info("deleted %s %s: no longer planned", *_identity(child))
    return None


async def _apply(application: Application, resource: Raw, reader: Reader, writer: Writer) -> None:
    manifest = application.manifest
    if application.new:
        place = manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        live = reader.get(*place) or await writer.read(*place)
        if live is not None and not observe.controlled_by(live, resource):
            raise NameTaken("there is one already that does not belong to this resource")
    try:
        await writer.apply(manifest)
    except Invalid as refused:
        if application.new or not await _overwritten(manifest, writer):
            raise refused from None


async def _overwritten(manifest: Raw, writer: Writer) -> bool:
    """Whether the lists as planned are taken, where beside what others put into them they are not.

    An apply leaves items of others in our lists: a port whose number was edited is another item of the same name.
    """
    try:
        await writer.overwrite(manifest)
    except Invalid:
        return False
    return True


async def _tell(resource: Raw, report: Report, writer: Writer) -> Outcome:
    """Write the status if it changed, then post the events of the change."""
    if report.status == resource.get("status"):
        return Outcome()
    try:
        await writer.apply_status(resource, report.status)
    except NotFound:
        return Outcome()  # deleted meanwhile
    except ApiError as error:
        return Outcome(error=error)
    for event in report.events:
        await writer.emit(event)
    return Outcome(changed=True)


def _identity(thing: Raw) -> tuple[str, str]:
    return thing["kind"], thing["metadata"]["name"]
