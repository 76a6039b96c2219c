"""Notices an engine that lives and does nothing: a deadlock, a kernel that never ends, a process that was frozen.

An engine that dies is seen at once; one that hangs says nothing, and nothing would end. So it is asked, a few times per
`--engine-stall-timeout`, whether its loop still turns. Only an engine that has reported ready is asked: how long
weights may take to load is a matter of disks, and readiness is off meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable

from wenxin_runtime import ipc

# Signs of life that may be missing from an engine that shares its model.
_SIGNS = 10

# Rounds are counted, not seconds: a server that was frozen together with its engine blames it for one round only.
_ROUNDS = 4

logger = logging.getLogger(__name__)


class Watchdog:
    """Counts the rounds in which the engine made no progress."""

    def __init__(self, stall_timeout: float, ask: Callable[[], None]) -> None:
        """Ask by calling `ask`, which sends Ping. A stall lasts `stall_timeout` seconds, or up to a quarter more."""
        self._stall_timeout = stall_timeout
        self._ask = ask
        self._silent_rounds = 0

    def heard(self, message: ipc.FromEngine) -> None:
        """Take note of what the engine says."""
        match message:
            case ipc.Alive():
                pass  # so does a process whose loop is stuck
            case ipc.Pong(busy=True):
                pass  # the loop turns, but it is steps that move sequences on
            case ipc.Outputs(stats=stats) if (stats.running or stats.waiting) and not stats.batch_tokens:
                pass  # a step that computed nothing while there was work
            case _:
                self._silent_rounds = 0

    async def stalled(self) -> None:
        """Return once the engine has made no progress for the whole timeout; with a timeout of 0, never."""
        if not self._stall_timeout:
            await asyncio.Event().wait()
        while self._silent_rounds <= _ROUNDS:
            await asyncio.sleep(self._stall_timeout / _ROUNDS)
            self._silent_rounds += 1
            self._ask()
            if self._silent_rounds == _ROUNDS // 2 + 1:
                logger.warning(
                    "the engine has made no progress for %g s; it is given up after %g s",
                    self._stall_timeout / 2,
                    self._stall_timeout,
                )


class Heartbeat:
    """Notices an engine that has said Alive and is silent since: its process is frozen.

    An engine that shares its model says it every second; the other ranks leave one that does not, and so do we.

    Attributes:
        last: The last sign.
        leaving: Set once another rank's machine has been told to stop.
    """

    def __init__(self) -> None:
        self.last = ipc.Alive(1.0)
        self.leaving = asyncio.Event()
        self._heard = asyncio.Event()

    def heard(self, alive: ipc.Alive) -> None:
        """Take note of a sign of life."""
        self.last = alive
        if alive.leaving:
            self.leaving.set()
        self._heard.set()

    async def stopped(self) -> float:
        """Return after ten signs were missing, with the seconds; never where there was none at all."""
        await self._heard.wait()
        silent = 0
        while silent <= _SIGNS:
            self._heard.clear()
            await asyncio.sleep(self.last.every_seconds)
            silent = 0 if self._heard.is_set() else silent + 1
        return _SIGNS * self.last.every_seconds
