"""That a rank is gone, or hangs, is known within seconds: both ends of its line to the leader say that they live.

A process that ends closes its lines: the other end knows at once. One that is frozen, or whose machine is gone, is
given up when it has been silent for ten rounds. Rounds are counted, not seconds: a process that was frozen itself
blames the others for one round only. A thread does all this, for the main one may be stuck in a sum.
"""

import contextlib
import functools
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from wenxin_runtime.errors import RankLost
from wenxin_runtime.parallel.wire import Farewell, Gone, Line, Pulse, Refused

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
ROUNDS = 10
"""How many a process may miss. Neither reading weights nor capturing graphs keeps a thread from running for so long."""
_HURRY_SECONDS = 5.0  # what a main thread gets that was told to end
_MOST_CALLERS = 64


class LeaderPulse:
    """The leader's ends of all lines, from the roll call to `close`."""

    def __init__(
        self,
        lines: Mapping[int, Line],
        listener: socket.socket,
        describe: Callable[[int, str], RankLost],
        on_loss: Callable[[RankLost], None],
        on_beat: Callable[[Mapping[int, Pulse]], None],
        every_seconds: float,
    ) -> None:
        """Take over the lines.

        Args:
            lines: By world rank.
            listener: Where a rank may call that comes too late, to be told so.
            describe: Makes the failure of a rank and what is known of its end.
            on_loss: Called once, when the others have been told.
            on_beat: Called every round with each rank's last pulse.
            every_seconds: Length of a round.
        """
        self._lines = dict(lines)
        self._last = dict.fromkeys(lines, Pulse())
        self._last_words: dict[int, str] = {}
        self._silent = dict.fromkeys(lines, 0)
        self._listener = listener
        self._describe, self._on_loss, self._on_beat = describe, on_loss, on_beat
        self._every = every_seconds
        self._late: list[Line] = []
        self._over = False
        self._failure: RankLost | None = None
        self._noticed = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake, woken = socket.socketpair()
        self._selector.register(woken, selectors.EVENT_READ, self._end)
        self._selector.register(listener, selectors.EVENT_READ, self._take_late_call)
        for rank, line in self._lines.items():
            self._selector.register(line, selectors.EVENT_READ, functools.partial(self._hear, rank))
        self._woken = woken
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    @property
    def last(self) -> list[Pulse]:
        """The last pulse of every other rank."""
        return list(self._last.values())

    def failure(self, within_seconds: float) -> RankLost | None:
        """Return which rank is lost, if that becomes known in time."""
        self._noticed.wait(within_seconds)
        return self._failure

    def close(self, farewell: Farewell) -> None:
        """Tell all ranks that the group ends, and hang up."""
        self._wake.close()
        self._thread.join()
        self._tell_all(farewell)
        for line in (*self._lines.values(), *self._late):
            line.close()
        self._woken.close()
        self._selector.close()

    def _run(self) -> None:
        next_beat = time.monotonic()
        while not self._over:
            for key, _ in self._selector.select(max(0.0, next_beat - time.monotonic())):
                key.data()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self._every
                self._beat()

    def _end(self) -> None:
        self._over = True

    def _beat(self) -> None:
        if self._over:
            return
        for rank, line in self._lines.items():
            self._silent[rank] += 1
            with contextlib.suppress(Gone):  # its end is read
                line.send(Pulse())
        for rank, rounds in self._silent.items():
            if rounds > ROUNDS:
                self._lose(rank, f"has not answered for {ROUNDS * self._every:g} s: it hangs, or its machine is gone")
        self._on_beat(self._last)

    def _hear(self, rank: int) -> None:
        try:
            messages = self._lines[rank].receive()
        except Gone as gone:
            self._lose(rank, self._last_words.get(rank) or str(gone))
            return
        self._silent[rank] = 0
        for message in messages:
            if isinstance(message, Pulse):
                self._last[rank] = message
            elif isinstance(message, Farewell):
                self._last_words[rank] = f"gave up: {message.reason}: {message.message}"

    def _lose(self, rank: int, what: str) -> None:
        if self._over:
            return
        self._over = True
        self._failure = self._describe(rank, what)
        self._noticed.set()
        self._tell_all(Farewell(self._failure.reason, str(self._failure), self._failure.exit_code))
        self._on_loss(self._failure)

    def _tell_all(self, farewell: Farewell) -> None:
        for line in self._lines.values():
            with contextlib.suppress(Gone):
                line.send(farewell)

    def _take_late_call(self) -> None:
        with contextlib.suppress(OSError):
            line = Line(self._listener.accept()[0])
            if len(self._late) == _MOST_CALLERS:
                self._hang_up(self._late[0])
            self._late.append(line)
            self._selector.register(line, selectors.EVENT_READ, functools.partial(self._refuse, line))

    def _refuse(self, line: Line) -> None:
        """Answer when the hello is there: an answer to a line with something unread in it may get lost."""
        if line not in self._late:
            return  # hung up on meanwhile
        with contextlib.suppress(Gone):
            line.receive()
            line.send(Refused("the group is complete; it ends when it has lost a rank, and then a new one forms", True))
        self._hang_up(line)

    def _hang_up(self, line: Line) -> None:
        self._selector.unregister(line)
        self._late.remove(line)
        line.close()


class FollowerPulse:
    """A following rank's end of its line.

    Attributes:
        over: Set once the group has ended, or this rank leaves it.
    """

    def __init__(
        self,
        line: Line,
        every_seconds: float,
        report: Callable[[Pulse], None],
        on_end: Callable[[Farewell], None],
    ) -> None:
        """Take over the line.

        Args:
            line: To the leader.
            every_seconds: Length of a round.
            report: Called with every pulse, from whichever thread.
            on_end: Called with what to end with at once, from the pulse's thread.
        """
        self._line = line
        self._every = every_seconds
        self._report = report
        self._on_end = on_end
        self._pulse = Pulse()
        self._sending = threading.Lock()
        self.over = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(line, selectors.EVENT_READ)  # here, for the line may be closed before the thread runs
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def loading(self, done: int, total: int) -> None:
        """Take note of the bytes that are read; a `Progress`."""
        self._pulse = msgspec.structs.replace(self._pulse, done=done, total=total)

    def loaded(self) -> None:
        """Say that all are, at once."""
        self._pulse = msgspec.structs.replace(self._pulse, loaded=True)
        with contextlib.suppress(Gone):
            self._beat()

    def carried_out(self) -> None:
        """Count an order."""
        self._pulse = msgspec.structs.replace(self._pulse, orders=self._pulse.orders + 1)

    def ask_to_leave(self) -> None:
        """Let the leader know that our machine has been told to stop."""
        self._pulse = msgspec.structs.replace(self._pulse, leaving=True)

    def leave(self, farewell: Farewell) -> None:
        """Tell the leader why we end."""
        self.over.set()
        with self._sending, contextlib.suppress(Gone):
            self._line.send(farewell)
        self._line.close()

    def _run(self) -> None:
        silent, next_beat = 0, time.monotonic()
        with self._selector as selector:
            while not self.over.is_set():
                try:
                    if selector.select(max(0.0, next_beat - time.monotonic())):
                        self._hear()
                        silent = 0
                    if time.monotonic() >= next_beat:
                        next_beat, silent = time.monotonic() + self._every, silent + 1
                        self._beat()
                except Gone as gone:
                    self._leader_lost(str(gone))
                    return
                if silent > ROUNDS:
                    self._leader_lost(f"has not answered for {ROUNDS * self._every:g} s: it hangs, or its node is gone")
                    return

    def _beat(self) -> None:
        with self._sending:
            self._line.send(self._pulse)
        self._report(self._pulse)

    def _hear(self) -> None:
        for message in self._line.receive():
            if isinstance(message, Farewell):
                if not message.exit_code:  # the main thread is told too, in its turn
                    self.over.wait(_HURRY_SECONDS)
                if not self.over.is_set():
                    self.over.set()
                    self._on_end(message)

    def _leader_lost(self, what: str) -> None:
        if not self.over.is_set():
            message = f"rank 0 {what}; the group cannot go on without it, and its reason stands in the log of node 0"
            self._on_end(Farewell(RankLost.reason, message, RankLost.exit_code))
