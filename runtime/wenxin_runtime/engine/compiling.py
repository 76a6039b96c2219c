"""Requests whose grammar is being compiled. They wait outside the scheduler, so that nobody waits with them."""

import concurrent.futures
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import NamedTuple

from wenxin_runtime.ipc import Submit

# How long an engine without other work sleeps at most; also what a new message may then have to wait.
_NAP_SECONDS = 0.01


class _Waiting(NamedTuple):
    message: Submit
    compilation: Future[None]
    unwanted: set[str]
    since: float


class Compiling:
    """A waiting room, in order of arrival. Its length counts sequences.

    Attributes:
        compiled: Requests that have left it since the start, their grammar compiled.
        seconds: How long they waited here, together.
    """

    def __init__(self) -> None:
        self.compiled, self.seconds = 0, 0.0
        self._waiting: list[_Waiting] = []

    def __len__(self) -> int:
        return sum(len(each.message.request_ids) - len(each.unwanted) for each in self._waiting)

    def add(self, message: Submit, compilation: Future[None]) -> None:
        """Let a request wait."""
        self._waiting.append(_Waiting(message, compilation, set(), time.monotonic()))

    def abort(self, request_id: str) -> None:
        """Forget a sequence, if it is here."""
        for each in self._waiting:
            if request_id in each.message.request_ids:
                each.unwanted.add(request_id)
        self._waiting = [each for each in self._waiting if len(each.unwanted) < len(each.message.request_ids)]

    def take(self, *, wait: bool) -> list[tuple[Submit, Iterable[str]]]:
        """Hand out the requests that need not wait any more, each with those of its choices that were aborted.

        Args:
            wait: Whether there is nothing else to do: sleep a moment, if none is ready.
        """
        if self._waiting and wait:
            compilations = [each.compilation for each in self._waiting]
            concurrent.futures.wait(compilations, _NAP_SECONDS, concurrent.futures.FIRST_COMPLETED)
        ready: list[tuple[Submit, Iterable[str]]] = []
        waiting: list[_Waiting] = []
        for each in self._waiting:
            if each.compilation.done():
                self.compiled += 1
                self.seconds += time.monotonic() - each.since
                ready.append((each.message, each.unwanted))
            else:
                waiting.append(each)
        self._waiting = waiting
        return ready
