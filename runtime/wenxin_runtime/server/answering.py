"""What every protocol does alike between a plan and its answer: find it or generate it, and notice who leaves."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

from starlette.types import Receive

from wenxin_runtime.errors import GenerationFailed
from wenxin_runtime.server.answers.cache import Wish
from wenxin_runtime.server.exchange import Exchange
from wenxin_runtime.server.generation import ClientGone, Generation
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.server.service import Service

logger = logging.getLogger(__name__)


async def opened(service: Service, plan: Plan, exchange: Exchange, headers: Mapping[str, str]) -> Generation:
    """Find the answer in the cache, where there is one, or begin to generate it.

    Args:
        service: The server.
        plan: What to generate.
        exchange: Takes note of where the answer comes from.
        headers: The request's, or its metadata; names in lower case.

    Raises:
        RequestError: it cannot be accepted now.
    """
    if service.answers is None:
        return service.admit(plan.submits())
    found = await service.answers.open(plan, Wish.of(headers), service.admit)
    exchange.cache = found.how
    return found.generation


def watched(receive: Receive, generation: Generation) -> AbstractAsyncContextManager[None]:
    """Fail `generation` as soon as its client closes the connection; one that is whole waits for nobody."""
    return contextlib.nullcontext() if generation.whole else _watched(receive, generation)


@contextlib.asynccontextmanager
async def _watched(receive: Receive, generation: Generation) -> AsyncIterator[None]:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        generation.fail(ClientGone())

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def mistake(error: Exception) -> GenerationFailed:
    """Log what went wrong; the client learns only that it was our fault."""
    logger.error("a request failed through our own fault", exc_info=error)
    return GenerationFailed("internal error", code="internal_error")
