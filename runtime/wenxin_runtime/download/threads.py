"""Calls that block, in threads."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finished(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return what `call` returns in a thread; a cancellation is raised only when the thread is done with it.

    A thread cannot be stopped. Were it left behind, whoever was cancelled would close the file under it, and the thread
    would write to whatever is opened next: the kernel gives the number of a closed file away at once.
    """
    work = asyncio.ensure_future(asyncio.to_thread(call, *arguments, **named))
    try:
        return await asyncio.shield(work)
    finally:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # of a call that nobody waits for any more; asked, so that asyncio does not log it
