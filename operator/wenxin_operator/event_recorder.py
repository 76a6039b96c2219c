"""Posting events.k8s.io/v1 events; an event that repeats becomes a series instead of a second object. Best effort."""

import datetime as dt
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from wenxin_operator.errors import ApiError, Conflict, NotFound
from wenxin_operator.events import Event
from wenxin_operator.names import API_VERSION, FIELD_MANAGER, GROUP, content_hash

logger = logging.getLogger(__name__)

Send = Callable[[str, str, dict[str, Any]], Awaitable[Any]]  # method, path, body

REMEMBERED = 1024  # series counts; forgetting one only restarts its count
NOTE_BYTES = 1024  # the API's own limit
_EVENTS = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"


class EventRecorder:
    """Posts events through `send`.

    Args:
        send: Makes a request, raises ApiError.
        identity: This copy of the operator.
        now: Wall time.
    """

    def __init__(
        self, send: Send, *, identity: str, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    ) -> None:
        self._send, self._identity, self._now = send, identity[:128], now
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def emit(self, event: Event) -> None:
        """Post it, or count it once more; a failure is logged, never raised."""
        name = event_name(event)
        try:
            if name not in self._counts or not await self._repeat(event, name):
                await self._first(event, name)
        except ApiError as error:
            logger.warning("event %s not posted: %s", event.reason, error)

    async def _first(self, event: Event, name: str) -> None:
        self._count(name, 1)
        try:
            await self._send("POST", _EVENTS.format(namespace=event.regarding.namespace), self._body(event, name))
        except Conflict:  # posted by an operator before us
            await self._repeat(event, name)

    async def _repeat(self, event: Event, name: str) -> bool:
        """Count it in its series; False when the API server has forgotten it (after an hour, by default)."""
        count = self._counts[name] + 1
        change = {"series": {"count": count, "lastObservedTime": self._stamp()}}
        try:
            await self._send("PATCH", f"{_EVENTS.format(namespace=event.regarding.namespace)}/{name}", change)
        except NotFound:
            return False
        self._count(name, count)
        return True

    def _count(self, name: str, count: int) -> None:
        self._counts[name] = count
        self._counts.move_to_end(name)
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    def _body(self, event: Event, name: str) -> dict[str, Any]:
        kind, namespace, of = event.regarding
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": self._stamp(),
            "type": event.type,
            "reason": event.reason,
            "action": "Reconcile",
            "note": event.note.encode()[:NOTE_BYTES].decode(errors="ignore"),
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": kind,
                "namespace": namespace,
                "name": of,
                "uid": event.uid,
            },
            "reportingController": f"{GROUP}/{FIELD_MANAGER}",
            "reportingInstance": self._identity,
        }

    def _stamp(self) -> str:
        return self._now().astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event_name(event: Event) -> str:
    """The same for equal events about the same object, whoever posts them; at most 253 characters."""
    tail = content_hash([event.uid, event.type, event.reason, event.note], 16)
    return f"{event.regarding.name[:236]}.{tail}"
