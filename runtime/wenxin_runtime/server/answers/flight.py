"""One generation that several equal requests read, each at its own pace; it goes on while one of them is left."""

import asyncio
from collections.abc import Callable, Sequence

from wenxin_runtime.errors import RequestError
from wenxin_runtime.ipc import FinishReason
from wenxin_runtime.server.answers.entry import Kept, Recording
from wenxin_runtime.server.generation import Generation


class Flight:
    """A generation under way, what it has generated so far, and who reads it.

    Attributes:
        landed: Whether it is over, for whatever reason.
    """

    def __init__(
        self,
        generation: Generation,
        on_landing: Callable[["Flight"], None],
        on_whole: Callable[[tuple[Kept, ...]], None],
    ) -> None:
        """Read `generation` until it ends.

        Args:
            generation: Nobody else takes from it or leaves it.
            on_landing: Called once, when it is over.
            on_whole: Called before that with what was generated, if every sequence has come to its end.
        """
        self.landed = False
        self._generation = generation
        self._on_landing, self._on_whole = on_landing, on_whole
        self._recording = Recording(len(generation.request_ids))
        self._readers: list[Generation] = []
        self._pumping = asyncio.create_task(self._pump())

    def join(self, request_ids: Sequence[str]) -> Generation:
        """Read along, from the first token; not once it has landed."""
        reader = Generation(_Reader(self, request_ids), request_ids, self._generation.timelines)
        for number, delta in self._recording.so_far(request_ids):
            reader.put(number, delta)
        self._readers.append(reader)
        return reader

    def stop(self, number: int) -> None:
        """A reader has found the end of a sequence in its text; all the others will find it there too."""
        self._recording.stop(number)
        self._generation.stop(number)
        self._land_if_whole()

    def leave(self, request_ids: Sequence[str]) -> None:
        """A reader has its answer, or does not want it any more; the last one to go takes the generation with it."""
        self._readers = [reader for reader in self._readers if reader.request_ids != tuple(request_ids)]
        if not self._readers:
            self._land()

    async def _pump(self) -> None:
        try:
            while not self.landed:
                for number, delta in await self._generation.take():
                    self._recording.add(number, delta)
                    for reader in self._readers:
                        reader.put(number, delta)
                self._land_if_whole()
        except RequestError as failure:
            for reader in self._readers:
                reader.fail(failure)
            self._land()

    def _land_if_whole(self) -> None:
        if not self.landed and self._recording.complete:
            self._on_whole(self._recording.kept())
            self._land()

    def _land(self) -> None:
        if self.landed:
            return
        self.landed = True
        self._generation.leave()
        if self._pumping is not asyncio.current_task():
            self._pumping.cancel()
        self._on_landing(self)


class _Reader:
    """What a reader's generation tells its owner."""

    def __init__(self, flight: Flight, request_ids: Sequence[str]) -> None:
        self._flight = flight
        self._numbers = {request_id: number for number, request_id in enumerate(request_ids)}

    def end(self, request_id: str, reason: FinishReason) -> None:  # noqa: ARG002 - always "stop"
        """See `generation.Owner.end`."""
        self._flight.stop(self._numbers[request_id])

    def abort(self, request_ids: Sequence[str]) -> None:
        """See `generation.Owner.abort`."""
        self._flight.leave(request_ids)
