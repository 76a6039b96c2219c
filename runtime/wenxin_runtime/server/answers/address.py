"""Where the Redis is: a URL, which may stand in a file that changes, and redis-py's client for it.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]                        one server; unix://PATH for one on this machine
    redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],.../MASTER[/DB]    the Sentinels; which server is master, they say
    redis+cluster://[[USER]:PASSWORD@]HOST[:PORT],...                 some nodes; the others, they say

`rediss` in place of `redis` is TLS, for the Sentinels too. Behind a `?` may stand what redis-py takes as an argument of
a connection (https://redis.readthedocs.io), and `sentinel_username` and `sentinel_password`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import redis.asyncio as redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wenxin_runtime.errors import ConfigError

Client = redis.Redis | RedisCluster

_REDIS_PORT, _SENTINEL_PORT = 6379, 26379
# More than the store ever uses at the same time.
_CONNECTIONS = 64
# A Sentinel or a node that is away must leave time for the next.
_CONNECT_SECONDS = 0.5
# Enough for a connection that was closed while it was idle. Longer patience is the breaker's.
_RETRIES = 1
_EXPECTED = (
    "expected redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], unix://PATH, redis+sentinel://HOST[:PORT],.../MASTER[/DB] or "
    "redis+cluster://HOST[:PORT],...; with rediss for TLS"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the Redis is, as far as it is known.

    Attributes:
        url: The URL itself; empty where `url_file` has it.
        url_file: A file with the URL, such as a mounted Secret. It may come late and change.
        ca_file: PEM file with the authorities that vouch for a server with TLS; empty takes the system's.
    """

    url: str = ""
    url_file: str = ""
    ca_file: str = ""

    def now(self) -> str:
        """The URL; empty while there is no file, or an empty one."""
        if self.url:
            return self.url
        try:
            return Path(self.url_file).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def client(self, url: str, seconds: float | None = None) -> Client:
        """Make a client that connects when it is first asked.

        Args:
            url: Where to.
            seconds: Longest wait for one answer. None where the caller has a timeout of its own: redis-py would make a
                task for each of its.

        Raises:
            ConfigError: `url` is none. It may hold a password, so the message does not repeat it.
        """
        try:
            scheme, _, kind = url.partition("://")[0].partition("+")
            tls = {"ssl_ca_certs": self.ca_file} if self.ca_file and scheme == "rediss" else {}
            common = {"max_connections": _CONNECTIONS, "retry": _retry(), "socket_timeout": seconds}
            if not kind or scheme not in ("redis", "rediss"):
                pool = redis.ConnectionPool.from_url(url, **common, **tls)
                return redis.Redis.from_pool(pool)
            return {"sentinel": _of_sentinels, "cluster": _of_cluster}[kind](url, common | _options(url, tls))
        except (ValueError, TypeError, KeyError):
            raise ConfigError(
                f"--redis-url (or WENXIN_REDIS_URL, or what stands in --redis-url-file) is no Redis URL: {_EXPECTED}"
            ) from None


async def close(client: Client) -> None:
    """Close all connections, those to Sentinels too."""
    with contextlib.suppress(RedisError, OSError):
        await client.aclose()
    if isinstance(client, redis.Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            with contextlib.suppress(RedisError, OSError):
                await sentinel.aclose()


def _of_sentinels(url: str, options: dict[str, Any]) -> Client:
    name, _, database = urlsplit(url).path.strip("/").partition("/")
    if not name:
        raise ValueError("the master's name is missing")
    login = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    shared = {key: value for key, value in options.items() if key.startswith("ssl")}
    patience = {"socket_connect_timeout": _CONNECT_SECONDS, "socket_timeout": _CONNECT_SECONDS, "retry": _retry(0)}
    sentinel = Sentinel(list(_places(url, _SENTINEL_PORT)), sentinel_kwargs={**shared, **login, **patience})  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(unquote(name), db=int(database or 0), **options)
    return client


def _of_cluster(url: str, options: dict[str, Any]) -> Client:
    if urlsplit(url).path.strip("/"):
        raise ValueError("a cluster has no databases")
    nodes = [ClusterNode(host, port) for host, port in _places(url, _REDIS_PORT)]
    return RedisCluster(startup_nodes=nodes, socket_connect_timeout=_CONNECT_SECONDS, **options)


def _retry(times: int = _RETRIES) -> Retry:
    return Retry(NoBackoff(), times)


def _options(url: str, tls: Mapping[str, str]) -> dict[str, Any]:
    """What a connection to a server takes."""
    parts = urlsplit(url)
    login = {"username": parts.username, "password": parts.password}
    given: dict[str, Any] = {name: unquote(value) for name, value in login.items() if value}
    if parts.scheme.startswith("rediss"):
        given |= {"ssl": True, **tls}
    return given | dict(parse_url(f"redis://?{parts.query}"))


def _places(url: str, port: int) -> Iterator[tuple[str, int]]:
    for place in urlsplit(url).netloc.rpartition("@")[2].split(","):
        alone = urlsplit(f"//{place}")
        if not alone.hostname:
            raise ValueError("a host is missing")
        yield alone.hostname, alone.port or port
