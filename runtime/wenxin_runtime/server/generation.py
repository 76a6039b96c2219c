"""The sequences of one HTTP request, from its acceptance to its end."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from wenxin_runtime.errors import RequestError
from wenxin_runtime.ipc import Delta, FinishReason
from wenxin_runtime.timeline import Timeline


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class NumberedDelta(NamedTuple):
    """A delta and the number of its sequence within the request."""

    number: int
    delta: Delta


class Owner(Protocol):
    """Whoever counts endings and speaks with the engine."""

    def end(self, request_id: str, reason: FinishReason) -> None:
        """The server ended this sequence (a stop string was found)."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """Nobody wants the rest of these sequences."""


class Generation:
    """A mailbox that the engine's deltas are put into, and that is emptied as fast as the client reads.

    A context manager: leaving it aborts every sequence that has not ended, so none is ever left behind.

    Attributes:
        request_ids: The sequences' ids, by number.
        timelines: What happened to each of them and when, by number; kept by the owner.
        whole: Whether all of it has been put in before anybody takes: nothing is waited for.
    """

    def __init__(self, owner: Owner, request_ids: Sequence[str], timelines: Sequence[Timeline]) -> None:
        self.request_ids = tuple(request_ids)
        self.timelines = tuple(timelines)
        self.whole = False
        self._owner = owner
        self._arrived: list[NumberedDelta] = []
        self._failure: RequestError | ClientGone | None = None
        self._wake = asyncio.Event()

    async def take(self) -> list[NumberedDelta]:
        """Wait for deltas and return all that have arrived.

        Raises:
            RequestError: the engine or the server gave the request up; deltas that came before are returned first.
            ClientGone: the client went away.
        """
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            self._wake.clear()
            await self._wake.wait()
        if isinstance(self._failure, ClientGone):
            raise self._failure
        arrived, self._arrived = self._arrived, []
        return arrived

    def put(self, number: int, delta: Delta) -> None:
        """Add a delta of sequence `number`."""
        self._arrived.append(NumberedDelta(number, delta))
        self._wake.set()

    def fail(self, error: RequestError | ClientGone) -> None:
        """End the whole request; the first failure counts."""
        self._failure = self._failure or error
        self._wake.set()

    def stop(self, number: int) -> None:
        """Sequence `number` has ended with a stop string, which only the server can see."""
        self._owner.end(self.request_ids[number], "stop")

    def leave(self) -> None:
        """Abort every sequence that has not ended."""
        self._owner.abort(self.request_ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()
