"""What Redis keeps for one model: counted, and flushed. `wenxin-runtime cache`, beside a server that goes on.

Which keys are the model's only its server knows, so that is asked; with --all it is every model's.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from redis.exceptions import RedisError

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.answers.address import Address, Client, close
from wenxin_runtime.server.answers.cache import redis_flags
from wenxin_runtime.server.answers.store import PREFIX

_BATCH = 500
_SPACE = re.compile(r'^wenxin_answer_cache_info\{space="([0-9a-f]*)"\} ', re.MULTILINE)
_ASK_SECONDS = 10.0


class Memory(msgspec.Struct, frozen=True):
    """What Redis says of itself; of a cluster, the sum of its masters. Bytes; `limit` 0 is none."""

    used: int = 0
    limit: int = 0
    evicted: int = 0
    policy: str = ""


class Stats(msgspec.Struct, frozen=True):
    """What is kept.

    Attributes:
        space: What the model's keys have in common; empty for all models.
        entries: How many answers.
        bytes: How long they are together, without what Redis needs besides.
        memory: Of the whole Redis; None where the user may not ask.
    """

    space: str
    entries: int
    bytes: int
    memory: Memory | None


class Flushed(msgspec.Struct, frozen=True):
    """What was flushed."""

    space: str
    entries: int


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        SystemExit: it cannot; the words are on stderr, and not in the termination log, which is the server's.
    """
    try:
        told = asyncio.run(_run(args))
    except (ConfigError, RedisError, httpx.HTTPError, OSError) as error:
        words = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        print(f"wenxin-runtime cache: {words}", file=sys.stderr)  # noqa: T201 - a command's own voice
        raise SystemExit(2) from None
    text = msgspec.json.encode(told).decode() if args.output == "json" else "\n".join(_lines(told))
    print(text)  # noqa: T201 - the command's result


async def _run(args: argparse.Namespace) -> Stats | Flushed:
    if args.action == "flush" and not args.yes:
        raise ConfigError("flush takes answers away for good: repeat it with --yes")
    address = Address(*redis_flags(args.redis_url, args.redis_url_file, args.redis_ca_file))
    url = address.now() if address.url or address.url_file else ""
    if not url:
        raise ConfigError("there is no Redis: give --redis-url, --redis-url-file or WENXIN_REDIS_URL")
    space = "" if args.all else await _space_of(args.server)
    client = address.client(url, _ASK_SECONDS)
    try:
        return await (_flush(client, space) if args.action == "flush" else _stats(client, space))
    finally:
        await close(client)


async def _space_of(server: str) -> str:
    if urlsplit(server).scheme not in ("http", "https"):
        raise ConfigError("--server must be a URL such as http://127.0.0.1:8000")
    async with httpx.AsyncClient(trust_env=False, timeout=_ASK_SECONDS) as http:
        metrics = (await http.get(f"{server.rstrip('/')}/metrics")).raise_for_status().text
    found = _SPACE.search(metrics)
    if found is None or not found[1]:
        raise ConfigError(f"the server at {server} has no answer cache, or is still loading; --all needs none")
    return found[1]


async def _batches(client: Client, space: str) -> AsyncIterator[list[bytes]]:
    pattern, batch = PREFIX + (space.encode() + b":" if space else b"") + b"*", list[bytes]()
    async for name in client.scan_iter(match=pattern, count=_BATCH):
        batch.append(name)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _stats(client: Client, space: str) -> Stats:
    entries = size = 0
    async for batch in _batches(client, space):
        asking: Any = client.pipeline(transaction=False)  # of a cluster, one for each node
        for name in batch:
            asking.strlen(name)
        lengths: list[Any] = await asking.execute(raise_on_error=False)
        entries += len(batch)
        size += sum(length for length in lengths if isinstance(length, int))
    return Stats(space, entries, size, await _memory(client))


async def _memory(client: Client) -> Memory | None:
    try:
        told: Any = [await client.info(section) for section in ("memory", "stats")]
    except RedisError:
        return None
    nodes = [section for each in told for section in _of_nodes(each)]
    totals = {
        name: sum(int(node.get(name, 0)) for node in nodes) for name in ("used_memory", "maxmemory", "evicted_keys")
    }
    policies = sorted({str(node["maxmemory_policy"]) for node in nodes if "maxmemory_policy" in node})
    return Memory(totals["used_memory"], totals["maxmemory"], totals["evicted_keys"], ", ".join(policies))


def _of_nodes(told: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """A cluster's client gives a section for each node, another the section itself."""
    return told.values() if all(isinstance(value, Mapping) for value in told.values()) else (told,)


async def _flush(client: Client, space: str) -> Flushed:
    gone = 0
    async for batch in _batches(client, space):
        gone += int(await client.unlink(*batch))
        print(f"{gone:,} flushed", file=sys.stderr, flush=True)  # noqa: T201 - progress
    return Flushed(space, gone)


def _lines(told: Stats | Flushed) -> list[str]:
    of = f"model {told.space}" if told.space else "all models"
    if isinstance(told, Flushed):
        return [f"{told.entries:,} answers of {of} flushed"]
    lines = [f"{told.entries:,} answers of {of}, {told.bytes:,} bytes"]
    if memory := told.memory:
        limit = f" of {memory.limit:,}" if memory.limit else ""
        lines.append(f"Redis uses {memory.used:,}{limit} bytes and has evicted {memory.evicted:,} ({memory.policy})")
    return lines
