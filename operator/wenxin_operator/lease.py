"""One copy of the operator works at a time: a coordination.k8s.io Lease, as client-go's leader election keeps it.

Clocks of different machines are never compared. A copy waits until it has itself seen the same record for the whole
lease duration, by its own monotonic clock. Every write carries the resourceVersion that was read, so two copies can
not both win.
"""

import asyncio
import datetime as dt
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from wenxin_operator.errors import ApiError, Conflict, LeaseLost, NotFound

logger = logging.getLogger(__name__)

Lease = dict[str, Any]


class Leases(Protocol):
    """The three requests that an elector needs."""

    async def read_lease(self, namespace: str, name: str) -> Lease:
        """The lease. Raises NotFound."""
        ...

    async def create_lease(self, lease: Lease) -> Lease:
        """Create it. Raises Conflict when it exists."""
        ...

    async def replace_lease(self, lease: Lease) -> Lease:
        """Write it. Raises Conflict when it has changed since it was read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds; duration > renew_deadline > retry_period."""

    duration: float
    renew_deadline: float
    retry_period: float

    @property
    def attempt(self) -> float:
        """The longest single attempt: one whose connection fell silent must leave time for another on a new one."""
        return self.renew_deadline / 2


class Elector:
    """Takes, keeps and gives back one lease under one identity.

    Args:
        leases: Requests to the API.
        namespace: Where the lease lies.
        name: Its name.
        identity: Unique among the copies.
        timing: How long things may take.
        clock: Monotonic seconds.
        now: Wall time, written for people to read.
    """

    def __init__(
        self,
        leases: Leases,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._leases, self._namespace, self._name, self._identity = leases, namespace, name, identity
        self._timing, self._clock, self._now = timing, clock, now
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0  # when the last successful write was sent: others count from no earlier
        self.leading = False

    @property
    def valid(self) -> bool:
        """Ours, and no other copy can have taken it yet; false again after this process was frozen for long."""
        return self.leading and self._clock() - self._renewed_at < self._timing.duration

    async def acquire(self) -> None:
        """Wait until the lease is ours; failures of the API are logged and tried again."""
        waiting_for: str | None = None
        while not await self._attempt():
            holder = _holder(self._seen) if self._seen else ""
            if holder != waiting_for:
                logger.info("waiting for lease %s/%s, held by %s", self._namespace, self._name, holder or "nobody")
                waiting_for = holder
            await asyncio.sleep(self._timing.retry_period)
        self.leading = True
        logger.info("took lease %s/%s as %s", self._namespace, self._name, self._identity)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLost: no renewal succeeded within the deadline, or another copy holds it.
        """
        while True:
            await asyncio.sleep(self._timing.retry_period)
            left = self._renewed_at + self._timing.renew_deadline - self._clock()
            if await self._attempt(limit=left):
                continue
            if self._seen and _holder(self._seen) not in (self._identity, ""):
                self._lose(f"{_holder(self._seen)} holds it now")
            if self._clock() - self._renewed_at >= self._timing.renew_deadline:
                self._lose(f"not renewed for {self._timing.renew_deadline:g} s")

    async def release(self) -> None:
        """Give the lease back, so that the next copy need not wait; a failure only costs that wait."""
        if not self.leading:
            return
        self.leading = False
        try:
            async with asyncio.timeout(self._timing.renew_deadline):
                lease = await self._leases.read_lease(self._namespace, self._name)  # a renewal may have been cut short
                if _holder(lease) == self._identity:
                    given = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._stamp()}
                    await self._leases.replace_lease({**lease, "spec": {**lease["spec"], **given}})
        except (ApiError, TimeoutError) as error:
            logger.warning("could not give lease %s/%s back: %s", self._namespace, self._name, error)

    def _lose(self, why: str) -> None:
        self.leading = False
        raise LeaseLost(f"lost lease {self._namespace}/{self._name}: {why}")

    async def _attempt(self, limit: float = math.inf) -> bool:
        """Try once to take or renew; False when another holds it or the API fails."""
        sent = self._clock()
        try:
            async with asyncio.timeout(max(0.0, min(self._timing.attempt, limit))):
                if not await self._take_or_renew():
                    return False
        except (Conflict, NotFound):
            self._seen = None  # changed or removed under us: read it anew
            return False
        except (ApiError, TimeoutError) as error:
            logger.warning("lease %s/%s: %s", self._namespace, self._name, str(error) or "timed out")
            return False
        self._renewed_at = sent
        return True

    async def _take_or_renew(self) -> bool:
        if not (self.leading and self._seen):  # a holder writes on what it wrote last; a conflict tells it otherwise
            try:
                self._observe(await self._leases.read_lease(self._namespace, self._name))
            except NotFound:
                self._remember(await self._leases.create_lease(self._record(None)))
                return True
        if not self._may_take():
            return False
        self._remember(await self._leases.replace_lease(self._record(self._seen)))
        return True

    def _observe(self, lease: Lease) -> None:
        if self._seen is None or self._seen.get("spec") != lease.get("spec"):
            self._remember(lease)
        else:
            self._seen = lease  # same record, maybe a newer resourceVersion: its age goes on

    def _remember(self, lease: Lease) -> None:
        self._seen, self._seen_at = lease, self._clock()

    def _may_take(self) -> bool:
        assert self._seen is not None  # noqa: S101 - set by _observe
        if _holder(self._seen) in ("", self._identity):
            return True
        duration = self._seen["spec"].get("leaseDurationSeconds") or self._timing.duration
        return self._clock() - self._seen_at > duration

    def _record(self, before: Lease | None) -> Lease:
        old = (before or {}).get("spec") or {}
        ours = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "acquireTime": old.get("acquireTime") if ours else self._stamp(),
            "renewTime": self._stamp(),
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if ours or before is None else 1),
        }
        metadata = before["metadata"] if before else {"namespace": self._namespace, "name": self._name}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}

    def _stamp(self) -> str:
        return self._now().astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _holder(lease: Lease) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")
