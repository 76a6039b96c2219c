"""Questions to the engine that it answers between two steps, one of a kind at a time."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from wenxin_runtime import ipc
from wenxin_runtime.errors import Conflict, EngineUnavailable

_Answer = TypeVar("_Answer", ipc.Inspected, ipc.Profiled)


class Questions:
    """Who waits for which kind of answer."""

    def __init__(self, send: Callable[[ipc.ToEngine], None]) -> None:
        self._send = send
        self._waiting: dict[type, tuple[ipc.Inspect | ipc.Profile, asyncio.Future[Any]]] = {}

    async def ask(self, question: ipc.Inspect | ipc.Profile, kind: type[_Answer], seconds: float) -> _Answer:
        """Send a question and wait for its answer.

        Raises:
            Conflict: such a question is being answered.
            EngineUnavailable: the engine dies meanwhile, or says nothing for `seconds`.
        """
        if kind in self._waiting:
            raise Conflict("somebody else is asking the same, try again", code="busy", retry_after=1)
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting[kind] = question, answer
        try:
            self._send(question)
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError as error:
            message = f"the engine has not answered for {seconds:g} s"
            raise EngineUnavailable(message, code="engine_busy", retry_after=10) from error
        finally:
            del self._waiting[kind]

    def answered(self, answer: ipc.Inspected | ipc.Profiled) -> None:
        """Hand an answer to whoever waits for it; nobody may be left, or somebody with a newer question."""
        if type(answer) not in self._waiting:
            return
        question, waiting = self._waiting[type(answer)]
        late = isinstance(question, ipc.Profile) and isinstance(answer, ipc.Profiled) and question.path != answer.path
        if not late and not waiting.done():
            waiting.set_result(answer)

    def fail(self, error: EngineUnavailable) -> None:
        """Give up every question: the engine is gone."""
        for _, waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
