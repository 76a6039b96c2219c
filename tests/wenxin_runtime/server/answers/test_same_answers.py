"""With the cache on, every greedy or seeded answer of the real engine is the one without it."""

import random
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from bench.redis_server import RedisServer
from tests.wenxin_runtime.server.processes import until
from tests.wenxin_runtime.server.real_engine import MODEL, openai_client
from wenxin_runtime.server.answers import store

NO_STORE = {"Cache-Control": "no-store"}


def requests() -> list[dict[str, Any]]:
    """Every request that repeats its answer, from a few values of what decides it."""
    dice = random.Random(45)
    found = []
    for number in range(24):
        body: dict[str, Any] = {"max_tokens": dice.randint(1, 12), "n": dice.choice([1, 1, 3])}
        body |= {"temperature": 0} if number % 2 else {"temperature": 1.5, "seed": dice.randint(0, 9)}
        body |= dice.choice([{}, {"stop": ["e", "的"]}, {"presence_penalty": 1.0}, {"top_p": 0.5}])
        body |= dice.choice([{}, {"logprobs": True, "top_logprobs": 2}])
        messages = [{"role": "user", "content": dice.choice(["hi", "北京的天气怎么样?", "a" * 40])}]
        found.append({"model": MODEL, "messages": messages, **body})
    return found


def told(response: Any) -> list[Any]:
    return [(choice.message.content, choice.finish_reason, choice.logprobs) for choice in response.choices]


async def streamed(client: AsyncOpenAI, body: dict[str, Any]) -> list[tuple[str, str | None]]:
    texts, reasons = [""] * body["n"], [None] * body["n"]
    async for chunk in await client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    return list(zip(texts, reasons, strict=True))


async def test_greedy_and_seeded_answers_are_the_same_with_and_without_the_cache(
    model_dir: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOKUP_SECONDS", 5.0)
    async with openai_client(model_dir, redis_url=redis_server.url) as client:
        hits = 0
        for body in requests():
            alone = told(await client.chat.completions.create(**body, extra_headers=NO_STORE))
            for _ in range(2):
                raw = await client.chat.completions.with_raw_response.create(**body)
                assert told(raw.parse()) == alone
                hits += raw.headers["x-wenxin-cache"] == "hit"
                await until(lambda: _stored(redis_server))
            assert await streamed(client, body) == [(text or "", reason) for text, reason, _ in alone]
        assert hits >= 20


def _stored(redis_server: RedisServer) -> bool:
    with redis_server.client as client:
        return client.dbsize() > 0
