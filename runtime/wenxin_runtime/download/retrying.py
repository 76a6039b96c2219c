"""When to try again: exponential backoff with jitter, or as long as the server asks."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from wenxin_runtime.errors import DownloadFailed

_LONGEST_SECONDS = 30.0
_LONGEST_ASKED_SECONDS = 300.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Transient(Exception):
    """It did not work, and may work the next time.

    Attributes:
        retry_after: Seconds that the server asks to wait.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SourceChanged(Exception):
    """A file is not the one that was listed any more: list again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often one thing is tried, and how long the pauses are.

    Attributes:
        attempts: Tries in a row without progress.
        delay: Seconds before the second try; doubled for each further one.
    """

    attempts: int
    delay: float

    def pause(self, failures: int, failure: Transient) -> float:
        """Return the seconds to wait after the `failures`-th failure in a row: jitter spreads those who failed at once.

        Raises:
            DownloadFailed: it was the last try.
        """
        if failures >= self.attempts:
            raise DownloadFailed(
                f"{failure} ({failures} tries): check the network, the proxy and the source; "
                "what has arrived is kept, and the same command goes on from there"
            ) from failure
        longest = min(_LONGEST_SECONDS, self.delay * 2.0 ** (failures - 1))
        asked = min(failure.retry_after or 0.0, _LONGEST_ASKED_SECONDS)
        return asked + random.uniform(0.5, 1) * longest  # noqa: S311 - spreads load, guards nothing

    async def wait(self, failures: int, failure: Transient) -> None:
        """Wait before the next try.

        Raises:
            DownloadFailed: it was the last one.
        """
        seconds = self.pause(failures, failure)
        logger.warning("%s; trying again in %.1f s", failure, seconds)
        await asyncio.sleep(seconds)

    async def until_done(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns, trying again after each Transient.

        Raises:
            DownloadFailed: the last try failed too.
        """
        failures = 0
        while True:
            try:
                return await attempt()
            except Transient as failure:
                failures += 1
                await self.wait(failures, failure)
