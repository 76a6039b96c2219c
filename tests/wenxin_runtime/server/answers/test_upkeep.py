"""`wenxin-runtime cache` beside a server: it counts and flushes that server's answers, and no others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wenxin_runtime.server.answers.test_address import cluster, formed  # noqa: F401 - a fixture
from tests.wenxin_runtime.server.answers.test_cache import GREEDY, cached, generated
from wenxin_runtime.__main__ import main
from wenxin_runtime.server.answers.store import PREFIX


def command(*arguments: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "wenxin_runtime", "cache", *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def told(*arguments: str) -> dict:
    import asyncio

    done = command(*arguments, "-o", "json")
    out, errors = await asyncio.to_thread(done.communicate)
    assert done.returncode == 0, errors
    return json.loads(out)


async def test_a_servers_own_answers_are_counted_and_flushed_and_no_others(model_dir: Path, redis_server) -> None:
    with redis_server.client as client:
        client.set(PREFIX + b"0123456789ab:other", b"another model's")
        client.set("somebody", "else's")
    async with cached(model_dir, redis_server) as server:
        await generated(server)
        await generated(server, max_tokens=9)
        place = ("--redis-url", redis_server.url)
        stats = await told("stats", "--server", server.server.url, *place)
        assert stats["entries"] == 2
        assert stats["bytes"] > 100
        assert stats["space"] == server.server.service.answers.space
        assert stats["memory"]["used"] > 0
        assert (await told("stats", "--all", *place))["entries"] == 3
        flushed = await told("flush", "--yes", "--server", server.server.url, *place)
        assert flushed == {"space": stats["space"], "entries": 2}
        assert (await generated(server))["how"] == "miss"
        assert (await server.post("completions", **GREEDY)).headers["x-wenxin-cache"] == "hit"
    with redis_server.client as client:
        assert client.get("somebody") == b"else's"
        assert client.get(PREFIX + b"0123456789ab:other")


async def test_many_answers_are_flushed_in_batches_of_all_nodes_of_a_cluster(cluster) -> None:  # noqa: F811
    await formed(cluster)
    from redis.cluster import RedisCluster

    with RedisCluster.from_url(cluster[0].url) as client:
        for number in range(1200):
            client.set(PREFIX + f"model:{number}".encode(), b"x" * 10)
    place = ("--all", "--redis-url", f"redis+cluster://127.0.0.1:{cluster[0].port}")
    stats = await told("stats", *place)
    assert (stats["entries"], stats["bytes"]) == (1200, 12_000)
    assert stats["memory"]["policy"] == "noeviction"
    assert (await told("flush", "--yes", *place))["entries"] == 1200
    assert (await told("stats", *place))["entries"] == 0


def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as refused:
        main(["cache", *arguments])
    assert refused.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_done_is_told_and_the_servers_last_words_stay(
    redis_server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "termination-log"
    monkeypatch.setenv("WENXIN_TERMINATION_LOG", str(words))
    assert "--yes" in refusal(capsys, "flush", "--all", "--redis-url", redis_server.url)
    assert "--redis-url" in refusal(capsys, "stats", "--all")
    assert "ConnectError" in refusal(capsys, "stats", "--redis-url", redis_server.url, "--server", "http://127.0.0.1:9")
    assert "--server" in refusal(capsys, "stats", "--redis-url", redis_server.url, "--server", "nonsense")
    assert "ConnectionError" in refusal(capsys, "stats", "--all", "--redis-url", "redis://127.0.0.1:9")
    assert not words.exists()


def test_a_person_reads_words(redis_server, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cache", "stats", "--all", "--redis-url", redis_server.url])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "0 answers of all models, 0 bytes"
    assert second.startswith("Redis uses ")
    main(["cache", "flush", "--all", "--yes", "--redis-url", redis_server.url])
    assert capsys.readouterr().out == "0 answers of all models flushed\n"
