"""ONE PASS: observe -> plan -> decide -> apply -> status. Level-based; knows no kopf, no clock.

The world is read from a store (`Reader`) and written through `Writer`; both are protocols, so that every
story of a pass is told in tests without a cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from wenxin_operator.events import Event
from wenxin_operator.names import Key, Raw


class OperatorSettings(Protocol):
    """The part of the operator's settings that plans depend on."""

    @property
    def runtime_image(self) -> str:
        """Image of the runtime where a spec names none."""
        ...

    @property
    def image_pull_policy(self) -> str:
        """Pull policy of model pods and inspect Jobs."""
        ...

    @property
    def lease_namespace(self) -> str:
        """Where the operator itself runs; its pods may call the models'."""
        ...


class Reader(Protocol):
    """The last known state of the watched objects. Never blocks, never changes what it returned."""

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """One object, or None. None also while the watch has not told of it yet."""
        ...

    def children(self, kind: str, namespace: str, label: str, value: str) -> Sequence[Raw]:
        """All objects of `kind` in `namespace` whose label `label` is `value`."""
        ...

    def all(self, kind: str, namespace: str) -> Sequence[Raw]:
        """All known objects of `kind` in `namespace`."""
        ...


class Writer(Protocol):
    """The API server. Every method but `emit` raises `errors.ApiError`."""

    async def read(self, kind: str, namespace: str, name: str) -> Raw | None:
        """GET one object past the store; None when absent. Asked before a child is made, lest we seize another's."""
        ...

    async def apply(self, manifest: Raw) -> Raw:
        """Server-side apply as `names.FIELD_MANAGER`, with force and strict field validation; returns the live one."""
        ...

    async def delete(self, target: Raw) -> None:
        """Delete this very object (by uid) in the background; absent or replaced is fine."""
        ...

    async def apply_status(self, resource: Raw, status: Raw) -> Raw:
        """Server-side apply of the whole status of this very resource."""
        ...

    async def emit(self, event: Event) -> None:
        """Post an event. Best effort: a failure is logged, never raised."""
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
    raise NotImplementedError
