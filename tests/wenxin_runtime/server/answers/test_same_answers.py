"""With the cache on, every greedy or seeded answer of the real engine is the one without it, whole and streamed."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from bench.redis_server import RedisServer
from tests.wenxin_runtime.server.processes import until
from tests.wenxin_runtime.server.real_engine import MODEL, openai_client
from tests.wenxin_runtime.server.test_tools import TIME, WEATHER
from wenxin_runtime import fixture
from wenxin_runtime.server.answers import store

Body = dict[str, Any]

CHAT, COMPLETIONS = "/chat/completions", "/completions"
WORDS = ["hi", "北京的天气怎么样?", "a" * 40]
ALIKE: list[Body] = [{}, {"stop": ["e", "的"]}, {"presence_penalty": 1.0}, {"top_p": 0.5}, {"logit_bias": {"300": 50}}]
ALIKE += [{"min_tokens": 3, "stop_token_ids": [300, 301]}, {"ignore_eos": True}, {"cache_salt": "team"}, {"n": 3}]
OF_CHATS: list[Body] = [{}, {"logprobs": True, "top_logprobs": 2}, {"response_format": {"type": "json_object"}}]
OF_CHATS += [{"tools": [WEATHER, TIME]}, {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60}]
OF_COMPLETIONS: list[Body] = [
    {},
    {"logprobs": 2},
    {"logprobs": 0, "echo": True},
    {"best_of": 4},
    {"prompt_logprobs": 1},
]
WHOLE_ONLY = {"best_of", "prompt_logprobs"}


def requests(count: int) -> list[tuple[str, Body]]:
    """Draw requests that repeat their answer, from some values of all that decides or spells it."""
    dice = random.Random(45)
    found = []
    for number in range(count):
        body = {"model": MODEL, "max_tokens": dice.randint(3, 12), **dice.choice(ALIKE)}
        body |= {"temperature": 0} if number % 2 else {"temperature": 1.5, "seed": dice.randint(0, 9)}
        if number % 3:
            body |= {"messages": [{"role": "user", "content": dice.choice(WORDS)}], **dice.choice(OF_CHATS)}
        else:
            body |= {"prompt": dice.choice([*WORDS, [300, 301, 302]]), **dice.choice(OF_COMPLETIONS)}
        found.append((COMPLETIONS if "prompt" in body else CHAT, body))
    return found


async def ask(client: AsyncOpenAI, path: str, body: Body, **headers: str) -> tuple[str, str]:
    """Where an answer comes from, and its body."""
    response = await client.post(path, cast_to=httpx.Response, body=body, options={"headers": headers})
    return response.headers["x-wenxin-cache"], response.text


def whole(text: str) -> list[Body]:
    """Every choice, without the ids of its tool calls, which are always new."""
    choices: list[Body] = json.loads(text)["choices"]
    for choice in choices:
        for call in choice.get("message", {}).get("tool_calls", []):
            del call["id"]
    return choices


def added_up(parts: Iterable[Body]) -> dict[int, Body]:
    """What streamed and whole choices have in common, by index: texts, calls, scored tokens, and how they ended."""
    found: dict[int, Body] = {}
    for part in parts:
        said = part.get("delta") or part.get("message") or part
        choice = found.setdefault(part["index"], {"text": "", "thought": "", "calls": "", "scored": [], "ended": None})
        choice["text"] += said.get("text") or said.get("content") or ""
        choice["thought"] += said.get("reasoning_content") or ""
        for call in said.get("tool_calls") or []:
            choice["calls"] += call["function"].get("name", "") + call["function"]["arguments"]
        scored = part.get("logprobs") or {}
        choice["scored"] += scored.get("content") or scored.get("token_logprobs") or []
        choice["ended"] = part["finish_reason"] or choice["ended"]
    return found


def streamed(text: str) -> list[Body]:
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events.pop() == "[DONE]"
    return [choice for event in events for choice in json.loads(event)["choices"]]


@pytest.fixture(scope="module")
def thinking_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixture.write(tmp_path_factory.mktemp("thinking"), thinking=True)


async def test_greedy_and_seeded_answers_are_the_same_with_and_without_the_cache(
    thinking_dir: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOKUP_SECONDS", 5.0)
    async with openai_client(thinking_dir, redis_url=redis_server.url) as client:
        for path, body in requests(24):
            how, text = await ask(client, path, body, **{"Cache-Control": "no-store"})
            assert how == "bypass"
            alone = whole(text)

            async def hit(path: str = path, body: Body = body, alone: list[Body] = alone) -> bool:
                how, text = await ask(client, path, body)
                assert whole(text) == alone
                return how == "hit"

            await until(hit)
            if not WHOLE_ONLY & body.keys():
                how, text = await ask(client, path, body | {"stream": True})
                assert how == "hit"
                assert added_up(streamed(text)) == added_up(alone)
