"""A Redis that is stopped, frozen, slow, full, flushed or lying costs no request, and nobody waits for it twice."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bench.redis_server import RedisServer, free_ports
from tests.wenxin_runtime.server.conftest import Running, running_server
from tests.wenxin_runtime.server.processes import until
from wenxin_runtime.server.answers import store as module
from wenxin_runtime.server.answers.address import Address
from wenxin_runtime.server.answers.store import RedisStore
from wenxin_runtime.telemetry import Metrics

Trouble = Callable[[RedisServer], AbstractContextManager[None]]

LOOKUP_SECONDS = module.LOOKUP_SECONDS
GREEDY = {"temperature": 0, "max_tokens": 5}


@contextlib.contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextlib.contextmanager
def slow(server: RedisServer) -> Iterator[None]:
    """It answers everything, ten times too late."""
    with server.client as client:
        client.execute_command("CLIENT PAUSE", int(LOOKUP_SECONDS * 10_000), "ALL")
    yield


@contextlib.contextmanager
def full(server: RedisServer) -> Iterator[None]:
    with server.client as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextlib.contextmanager
def flushed(server: RedisServer) -> Iterator[None]:
    with server.client as client:
        client.flushall()
    yield


@pytest.fixture
async def writing(
    model_dir: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    """A server whose engine writes by itself, beside a Redis that is well."""
    monkeypatch.setattr(module, "_PROBE_AFTER_SECONDS", (0.02,))
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 5.0)  # this machine may be busy
    async with running_server(model_dir, redis_url=redis_server.url, tokens="300,301,302") as server:
        await until(lambda: server.server.service.answers.well)
        yield server


async def asked(server: Running, prompt: str) -> tuple[str, str]:
    """Where an answer comes from, and its text."""
    response = await server.post("completions", prompt=prompt, **GREEDY)
    assert response.status_code == 200, response.text
    return response.headers["x-wenxin-cache"], response.json()["choices"][0]["text"]


async def repeated(server: Running, prompt: str) -> str:
    """Ask until the answer is one from Redis; its text."""
    found: list[str] = []

    async def hit() -> bool:
        how, text = await asked(server, prompt)
        found.append(text)
        return how == "hit"

    await until(hit)
    return found[-1]


@pytest.mark.parametrize("trouble", [stopped, RedisServer.frozen, slow, full, flushed])
async def test_a_redis_in_trouble_costs_no_request_and_repeats_answers_once_it_is_well(
    writing: Running, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    text = await repeated(writing, "known")
    monkeypatch.setattr(module, "LOOKUP_SECONDS", LOOKUP_SECONDS)
    with trouble(redis_server):
        answers = await asyncio.gather(*(asked(writing, f"prompt {number % 6}") for number in range(12)))
        assert {answer for _, answer in answers} == {text}
        # A flushed one is well, and may have the first answer when the second of two equal requests comes.
        assert {how for how, _ in answers} <= {"miss", "shared"} | ({"hit"} if trouble is flushed else set())
        assert (await asked(writing, "known"))[1] == text
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 5.0)
    assert await repeated(writing, "known") == text
    assert await repeated(writing, "prompt 0") == text


async def test_what_a_full_redis_has_it_goes_on_repeating(writing: Running, redis_server: RedisServer) -> None:
    await repeated(writing, "known")
    with full(redis_server):
        assert (await asked(writing, "new"))[0] == "miss"
        await until(functools.partial(refused, writing))
        assert (await asked(writing, "known"))[0] == "hit"
        assert (await asked(writing, "new"))[0] == "miss"


async def refused(server: Running) -> bool:
    return await server.metric("wenxin_answer_cache_errors_total", kind="refused") > 0


LIES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "another request's answer": lambda _, other: other,
    "half of it": lambda own, _: own[: len(own) // 2],
    "more than it": lambda own, _: own + b"x",
    "nothing": lambda *_: b"",
    "another version": lambda own, _: b"\x00" + own[1:],
    "somebody else's words": lambda *_: b"<html>",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_a_lie_is_a_miss_that_is_counted_and_put_right(
    writing: Running, redis_server: RedisServer, lie: Callable[[bytes, bytes], bytes]
) -> None:
    text = await repeated(writing, "known")
    with redis_server.client as client:
        (name,) = client.keys()
        await repeated(writing, "other")
        (another,) = set(client.keys()) - {name}
        client.set(name, lie(client.get(name), client.get(another)))
        assert await asked(writing, "known") == ("miss", text)
        assert await writing.metric("wenxin_answer_cache_errors_total", kind="corrupt") == 1
    assert await repeated(writing, "known") == text


async def test_somebody_elses_value_under_our_name_is_a_miss_and_goes(
    writing: Running, redis_server: RedisServer
) -> None:
    text = await repeated(writing, "known")
    with redis_server.client as client:
        (name,) = client.keys()
        client.delete(name)
        client.rpush(name, "a list")
    assert await asked(writing, "known") == ("miss", text)
    assert await repeated(writing, "known") == text


def noted_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the caller's own task is ready to wait for Redis, each time: in seconds."""
    found: list[float] = []
    asking, timeout = asyncio.current_task(), asyncio.timeout

    def noted(seconds: float) -> asyncio.Timeout:
        if asyncio.current_task() is asking:
            found.append(seconds)
        return timeout(seconds)

    monkeypatch.setattr(module.asyncio, "timeout", noted)
    return found


@pytest.mark.parametrize("trouble", [stopped, RedisServer.frozen])
async def test_who_asks_waits_twenty_milliseconds_at_most_and_once_until_redis_is_well_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    monkeypatch.setattr(module, "_PROBE_AFTER_SECONDS", (0.01,))
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.05)
    store = RedisStore(Address(redis_server.url), 100.0, Metrics(slots=1).answers)
    with contextlib.closing(redis_server.client) as client:
        await until(client.ping)
        await store.connect(b"model")
        for _ in range(2):
            await until(lambda: store.well)
            with trouble(redis_server):
                waits = noted_waits(monkeypatch)
                for _ in range(20):
                    assert await store.get(b"key") is None
                    await asyncio.sleep(0.005)  # probes fail meanwhile
                assert waits == [LOOKUP_SECONDS]
                assert LOOKUP_SECONDS == 0.02
    await store.close()


# What speaks no RESP, or speaks it to mislead: the first answers to anything that is asked.
LIARS = [b"$abc\r\n", b":5\r\n", b"$9999999999\r\nhi", b"*3\r\n:1\r\n", b"-\xff\xfe\r\n", b"+OK\r\n" * 9, b"\x00" * 99]
LIARS += [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"%1\r\n+a\r\n+b\r\n", b"$-5\r\n", b"*-7\r\n", b"*1\r\n" * 5000, b""]


@contextlib.asynccontextmanager
async def liar(port: int, words: bytes) -> AsyncIterator[None]:
    lying: list[asyncio.StreamWriter] = []

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lying.append(writer)
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while words and await reader.read(1000):
                writer.write(words)

    async with await asyncio.start_server(lie, "127.0.0.1", port):
        yield
    for writer in lying:
        writer.close()


@pytest.mark.parametrize("words", LIARS, ids=lambda words: repr(words[:12]))
async def test_whatever_else_answers_in_place_of_redis_is_a_miss_until_redis_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(module, "_PROBE_AFTER_SECONDS", (0.01,))
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.1)
    (port,) = free_ports(1)
    redis_server = RedisServer(tmp_path, port)
    store = RedisStore(Address(redis_server.url), 100.0, Metrics(slots=1).answers)
    async with liar(port, words):
        await store.connect(b"model")
        for _ in range(10):
            assert await store.get(b"key") in (None, b"OK")
            store.put(b"key", b"value")
            await asyncio.sleep(0.005)  # probes listen to it, too
    redis_server.start()
    try:
        await until(functools.partial(kept, store))
    finally:
        await store.close()
        redis_server.stop()


async def kept(store: RedisStore) -> bool:
    store.put(b"other", b"value")
    return await store.get(b"other") == b"value"
