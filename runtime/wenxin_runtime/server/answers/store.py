"""Redis as a place that may forget, stall or lie. It never fails a request, and seldom makes one wait.

A lookup takes at most 20 ms. The first that takes longer, or fails, opens the breaker: from then on every lookup is a
miss at once, until a probe beside the requests finds Redis answering in time again.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol, TypeVar

import redis.asyncio as redis
from redis.exceptions import RedisError

from wenxin_runtime.errors import ConfigError

logger = logging.getLogger(__name__)

LOOKUP_SECONDS = 0.02
_WRITE_SECONDS = 1.0
_PROBE_SECONDS = 2.0
_PROBE_AFTER_SECONDS = (0.25, 1.0, 5.0)  # the last again and again
_CONNECTIONS = 32
# Writes that wait at the same time; what comes beyond is not kept.
_MOST_WRITES = 64
# Entries that were written together do not expire together.
_JITTER = 0.1
_PREFIX = b"wenxin:answer:1:"

_T = TypeVar("_T")


class Watcher(Protocol):
    """Who counts what happens."""

    def lookup(self, seconds: float) -> None:
        """A lookup was answered."""

    def error(self, kind: str) -> None:
        """Redis did not do what it was asked to: timeout, connection or refused."""

    def breaker(self, *, is_open: bool) -> None:
        """The breaker has opened or closed."""


class RedisStore:
    """Entries by key, for a time."""

    def __init__(self, url: str, ttl_seconds: float, watcher: Watcher) -> None:
        """Connect when first asked to; `url` is redis://, rediss:// (TLS) or unix://.

        Raises:
            ConfigError: the URL is none. It may hold a password, so the message does not repeat it.
        """
        try:
            pool = redis.BlockingConnectionPool.from_url(url, max_connections=_CONNECTIONS, timeout=LOOKUP_SECONDS)
        except (ValueError, TypeError):
            raise ConfigError(
                "--redis-url (or WENXIN_REDIS_URL) is no Redis URL: expected redis://[:PASSWORD@]HOST[:PORT][/DB], "
                "rediss:// for TLS, or unix://PATH"
            ) from None
        self._client = redis.Redis.from_pool(pool)
        self._ttl_ms = ttl_seconds * 1000
        self._watcher = watcher
        self._closed_breaker = True
        self._recovering: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Connect before anybody waits for it."""
        await self._try(self._client.ping, _PROBE_SECONDS)

    async def get(self, key: bytes) -> bytes | None:
        """Find an entry; None where there is none, or Redis does not say so in time."""
        if not self._closed_breaker:
            return None
        begun = time.perf_counter()
        found = await self._try(lambda: self._client.get(_PREFIX + key), LOOKUP_SECONDS)
        self._watcher.lookup(time.perf_counter() - begun)
        return found if isinstance(found, bytes) else None

    def put(self, key: bytes, raw: bytes) -> None:
        """Keep an entry, beside what else is to be done."""
        if not self._closed_breaker or len(self._writes) >= _MOST_WRITES:
            return
        self._aside(self._write(key, raw))

    def drop(self, key: bytes) -> None:
        """Forget an entry that cannot be read."""
        self._watcher.error("corrupt")
        self._aside(self._forget(key))

    async def close(self) -> None:
        """Finish what is being written, and disconnect."""
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
        if self._writes:
            await asyncio.wait(self._writes)
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, key: bytes, raw: bytes) -> None:
        ttl = int(self._ttl_ms * (1 + random.uniform(-_JITTER, _JITTER)))  # noqa: S311 - no secret
        await self._try(lambda: self._client.set(_PREFIX + key, raw, px=max(1, ttl)), _WRITE_SECONDS)

    async def _forget(self, key: bytes) -> None:
        await self._try(lambda: self._client.delete(_PREFIX + key), _WRITE_SECONDS)

    async def _try(self, work: Callable[[], Awaitable[_T]], seconds: float) -> _T | None:
        try:
            async with asyncio.timeout(seconds):
                return await work()
        except TimeoutError:
            self._open("timeout", f"no answer within {seconds:g} s")
        except (redis.ConnectionError, OSError) as error:
            self._open("connection", type(error).__name__)
        except RedisError as error:  # out of memory, read-only, loading, no permission
            self._open("refused", str(error).partition(" ")[0])
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
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    await self._client.ping()  # connects
                async with asyncio.timeout(LOOKUP_SECONDS):
                    await self._client.ping()
                break
        self._closed_breaker = True
        self._watcher.breaker(is_open=False)
        logger.info("Redis answers again")
