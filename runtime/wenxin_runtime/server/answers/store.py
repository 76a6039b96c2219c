"""Redis as a place that may forget, stall or lie. It never fails a request, and seldom makes one wait.

A lookup takes at most 20 ms. The first that takes longer, or fails, opens the breaker: from then on every lookup is a
miss at once, until a probe beside the requests finds Redis answering in time again. What Redis refuses to write, being
full or a replica, it may still know how to read, so that opens nothing.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.answers.address import Address, Client, close

logger = logging.getLogger(__name__)

LOOKUP_SECONDS = 0.02
_WRITE_SECONDS = 1.0
_PROBE_SECONDS = 2.0
_PROBE_AFTER_SECONDS = (0.25, 1.0, 5.0)  # the last again and again
# Requests to Redis at the same time; others wait for their turn, within their own time.
_AT_ONCE = 32
# Writes that wait at the same time; what comes beyond is not kept.
_MOST_WRITES = 64
# Entries that were written together do not expire together.
_JITTER = 0.1
PREFIX = b"wenxin:answer:1:"
"""What every key begins with; then comes the space, and a colon."""

_T = TypeVar("_T")


class Watcher(Protocol):
    """Who counts what happens."""

    def lookup(self, seconds: float) -> None:
        """A lookup was answered."""

    def error(self, kind: str) -> None:
        """Redis did not do what it was asked to: timeout, connection, refused or corrupt."""

    def breaker(self, *, is_open: bool) -> None:
        """The breaker has opened or closed."""


class RedisStore:
    """Entries by key, for a time."""

    def __init__(self, address: Address, ttl_seconds: float, watcher: Watcher) -> None:
        """Connect when first asked to.

        Args:
            address: Where Redis is.
            ttl_seconds: How long an entry is kept, give or take a tenth.
            watcher: Counts.

        Raises:
            ConfigError: the URL is none. One in a file may yet be put right.
        """
        self._address = address
        self._url = address.url
        self._client: Client | None = address.client(address.url) if address.url else None
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._prefix = PREFIX
        self._ttl_ms = ttl_seconds * 1000
        self._watcher = watcher
        self._closed_breaker = True
        self._writes_refused = False
        self._recovering: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def well(self) -> bool:
        """Whether Redis is asked."""
        return self._closed_breaker

    async def connect(self, space: bytes) -> None:
        """Connect before anybody waits for it; from now on keys are of this space."""
        self._prefix = PREFIX + space + b":"
        await self._renew()
        if self._client is None:
            self._open("connection", "its URL is not there yet")
        else:
            await self._try(lambda client: client.ping(), _PROBE_SECONDS)

    async def get(self, key: bytes) -> bytes | None:
        """Find an entry; None where there is none, or Redis does not say so in time."""
        if not self._closed_breaker:
            return None
        begun = time.perf_counter()
        found = await self._try(lambda client: _get(client, self._prefix + key), LOOKUP_SECONDS)
        self._watcher.lookup(time.perf_counter() - begun)
        return found

    def put(self, key: bytes, raw: bytes) -> None:
        """Keep an entry, beside what else is to be done."""
        if not self._closed_breaker or len(self._writes) >= _MOST_WRITES:
            return
        self._aside(self._write(self._prefix + key, raw))

    def drop(self, key: bytes) -> None:
        """Forget an entry that cannot be read."""
        self._watcher.error("corrupt")
        self._aside(self._forget(self._prefix + key))

    async def close(self) -> None:
        """Finish what is being written, and disconnect."""
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
        if self._writes:
            await asyncio.wait(self._writes)
        await self._disconnect()

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, name: bytes, raw: bytes) -> None:
        ttl = max(1, int(self._ttl_ms * (1 + random.uniform(-_JITTER, _JITTER))))  # noqa: S311 - no secret
        await self._try(lambda client: self._set(client, name, raw, ttl), _WRITE_SECONDS)

    async def _set(self, client: Client, name: bytes, raw: bytes, ttl_ms: int) -> None:
        try:
            await client.set(name, raw, px=ttl_ms)
        except ResponseError as refusal:  # out of memory, read-only, no permission to write
            self._watcher.error("refused")
            if not self._writes_refused:
                logger.warning(
                    "Redis keeps no answers: %s; those that it has go on being repeated", _first_word(refusal)
                )
            self._writes_refused = True
        else:
            self._writes_refused = False

    async def _forget(self, name: bytes) -> None:
        with contextlib.suppress(ResponseError):
            await self._try(lambda client: client.unlink(name), _WRITE_SECONDS)

    async def _try(self, work: Callable[[Client], Awaitable[_T]], seconds: float) -> _T | None:
        try:
            async with asyncio.timeout(seconds), self._places:
                return None if self._client is None else await work(self._client)
        except TimeoutError:
            self._open("timeout", f"no answer within {seconds:g} s")
        except (RedisConnectionError, OSError) as error:
            self._open("connection", type(error).__name__)
        except RedisError as error:  # loading, no permission, a cluster with a part missing
            self._open("refused", _first_word(error))
        except Exception as error:  # noqa: BLE001 - redis-py trusts what it reads, and that may not be Redis at all
            self._open("corrupt", type(error).__name__)
        return None

    def _open(self, kind: str, why: str) -> None:
        self._watcher.error(kind)
        if not self._closed_breaker:
            return
        self._closed_breaker = False
        self._watcher.breaker(is_open=True)
        logger.warning("Redis: %s; answers are neither looked up nor kept until it is well again", why)
        self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        for wait in itertools.chain(_PROBE_AFTER_SECONDS, itertools.repeat(_PROBE_AFTER_SECONDS[-1])):
            await asyncio.sleep(wait)
            await self._renew()
            with contextlib.suppress(Exception):  # whatever goes wrong, Redis is not well yet
                if await self._answers():
                    break
        self._closed_breaker = True
        self._watcher.breaker(is_open=False)
        logger.info("Redis answers again")

    async def _answers(self) -> bool:
        """Whether Redis answers in time once there is a connection to it."""
        if self._client is None:
            return False
        for seconds in (_PROBE_SECONDS, LOOKUP_SECONDS):
            async with asyncio.timeout(seconds):
                await self._client.get(self._prefix)
        return True

    async def _renew(self) -> None:
        """Follow the URL to where it leads now."""
        url = self._address.now()
        if url == self._url:
            return
        await self._disconnect()
        self._url, self._client = url, None
        try:
            self._client = self._address.client(url) if url else None
        except ConfigError as error:
            logger.warning("answers are not cached: %s", error)

    async def _disconnect(self) -> None:
        if self._client is not None:
            await close(self._client)


async def _get(client: Client, name: bytes) -> bytes | None:
    try:
        found: Any = await client.get(name)
    except ResponseError as error:
        if _first_word(error) == "WRONGTYPE":
            return b""  # somebody else's value has our name: as good as a corrupt one
        raise
    return found if isinstance(found, bytes) else None


def _first_word(error: Exception) -> str:
    """Redis' own code for an error; what follows it may quote a key."""
    return str(error).partition(" ")[0]
