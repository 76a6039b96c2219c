import asyncio

import pytest

from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.answers import store as module
from wenxin_runtime.server.answers.address import Address
from wenxin_runtime.server.answers.store import RedisStore


class Seen:
    """Everything a watcher was told."""

    def __init__(self):
        self.errors, self.lookups, self.is_open = [], 0, False

    def lookup(self, seconds):  # noqa: ARG002 - the protocol's
        self.lookups += 1

    def error(self, kind):
        self.errors.append(kind)

    def breaker(self, *, is_open):
        self.is_open = is_open


@pytest.fixture
async def opened(redis_server, monkeypatch):
    monkeypatch.setattr(module, "_PROBE_AFTER_SECONDS", (0.05,))
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.5)  # this machine may be busy
    seen = Seen()
    store = RedisStore(Address(redis_server.url), 100.0, seen)
    await store.connect(b"model")
    yield redis_server, store, seen
    await store.close()


async def found(store, key):
    deadline = asyncio.get_running_loop().time() + 30
    while (value := await store.get(key)) is None:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    return value


async def test_what_is_put_is_found_until_it_expires_with_jitter(opened):
    server, store, seen = opened
    assert await store.get(b"1") is None
    for number in range(20):
        store.put(str(number).encode(), b"value")
    assert await found(store, b"1") == b"value"
    await found(store, b"19")
    with server.client as client:
        left = [client.pttl(key) for key in client.scan_iter()]
    assert all(89_000 < ttl <= 110_000 for ttl in left)
    assert len(set(left)) > 10
    assert seen.errors == []
    assert seen.lookups


async def test_a_redis_that_goes_costs_one_error_and_comes_back_by_itself(opened):
    server, store, seen = opened
    server.stop()
    assert await store.get(b"1") is None
    assert (seen.errors, seen.is_open) == (["connection"], True)
    lookups = seen.lookups
    assert await store.get(b"1") is None
    store.put(b"1", b"lost")
    assert seen.lookups == lookups, "nobody asks while the breaker is open"
    server.start()
    await until(lambda: not seen.is_open)
    store.put(b"1", b"value")
    assert await found(store, b"1") == b"value"


async def test_a_frozen_redis_is_given_up_in_time(opened):
    server, store, seen = opened
    with server.frozen():
        assert await store.get(b"1") is None
        assert (seen.errors, seen.is_open) == (["timeout"], True)
    await until(lambda: not seen.is_open)


async def test_a_full_redis_refuses_and_nobody_is_hurt(opened):
    server, store, seen = opened
    with server.client as client:
        client.config_set("maxmemory", "1mb")
        client.config_set("maxmemory-policy", "noeviction")
    store.put(b"1", b"x" * 2_000_000)
    await until(lambda: seen.errors == ["refused"])
    assert await store.get(b"1") is None


async def test_an_entry_that_is_dropped_is_gone(opened):
    _, store, seen = opened
    store.put(b"1", b"value")
    await found(store, b"1")
    store.drop(b"1")
    assert seen.errors == ["corrupt"]
    deadline = asyncio.get_running_loop().time() + 30
    while await store.get(b"1") is not None:
        assert asyncio.get_running_loop().time() < deadline


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "redis://:secret@host:port",
        "redis+sentinel://:secret@host",
        "redis+sentinel://:secret@/main",
        "redis+cluster://:secret@host/1",
        "redis+crowd://:secret@host",
        "http+cluster://:secret@host",
    ],
)
def test_what_is_no_url_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match="--redis-url") as refused:
        RedisStore(Address(url), 1.0, Seen())
    assert "secret" not in str(refused.value)
