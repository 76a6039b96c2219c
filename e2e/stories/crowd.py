"""Clients of every kind, good and bad, and the account of what each of their requests came to.

Whatever a client does, its request is one of: answered with a status, or left by the client before the answer began.
Each scenario checks its own answer and writes into the account what the server must have counted too.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

Body = dict[str, Any]
_CITIES = ["北京", "上海", "广州"]
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": _CITIES}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
_MALFORMED = (
    b'{"prompt": "a"',
    b"[]",
    b"\xff\xfe",
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "temperature": "hot"}',
    b'{"prompt": [9999999]}',
    b'{"prompt": "", "max_tokens": 1}',
    b'{"prompt": "a", "n": 100000}',
    b'{"prompt": "a", "structured_outputs": {"regex": "("}}',
)


@dataclass
class Account:
    """What the clients saw.

    Attributes:
        sent: Requests that were sent to the end.
        answers: Answers by status; a stream that its client left is a 200.
        left_early: Requests whose client left before an answer began, so it does not know the status.
        ended: Sequences whose finish reason the client read, by reason.
        abandoned: Sequences whose client left, whatever the server made of them.
        seconds: When the answer to a short request was complete (time.monotonic()), and how long that took.
        faults: What no client should see.
    """

    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    left_early: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    seconds: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Crowd:
    """Some clients, each of which does one thing after the other, chosen at random but repeatably."""

    def __init__(self, model: str, *, context: int, body_limit: int, seed: int) -> None:
        """Set up; `context` is the model's length in tokens, `body_limit` the largest body in bytes."""
        self.account = Account()
        self._client: httpx.AsyncClient
        self._model = model
        self._context = context
        self._body_limit = body_limit
        self._random = random.Random(seed)  # noqa: S311 - which client comes next is no secret
        self._known_answer: str | None = None
        self._scenarios: dict[Callable[[], Awaitable[None]], int] = {
            self._short: 8,
            self._same_again: 4,
            self._stream: 6,
            self._choices: 3,
            self._stop_string: 3,
            self._logprobs: 3,
            self._long_prompt: 4,
            self._long_answer: 4,
            self._structured: 3,
            self._burst: 1,
            self._leave_at_once: 5,
            self._leave_in_the_middle: 5,
            self._malformed: 4,
            self._too_long: 2,
            self._oversize: 1,
            self._wrong_route: 1,
        }

    async def go_on_for(self, seconds: float, clients: int, client: httpx.AsyncClient) -> None:
        """Let `clients` clients work for so long, over the connections of `client`; what is under way is finished."""
        self._client = client
        over = time.monotonic() + seconds

        async def work() -> None:
            while time.monotonic() < over:
                await self._one()

        await asyncio.gather(*(work() for _ in range(clients)))

    async def fill(self, tokens: int, client: httpx.AsyncClient) -> None:
        """Have `tokens` different tokens computed, in prompts that have nothing in common.

        The least used block is taken first, so a cache of that size is touched all over, and resident from then on.
        """
        self._client = client
        length = self._context - 8
        prompts = [[self._random.randint(300, 1300) for _ in range(length)] for _ in range(-(-tokens // length))]
        await asyncio.gather(*(self._whole(self._completion(prompt=prompt, max_tokens=1)) for prompt in prompts))

    async def _one(self) -> None:
        (scenario,) = self._random.choices(list(self._scenarios), list(self._scenarios.values()))
        try:
            await scenario()
        except (httpx.HTTPError, OSError, AssertionError, KeyError, ValueError) as error:
            self.account.faults.append(f"{scenario.__name__}: {error!r}")

    # -- good requests -------------------------------------------------------------------------------------------------

    async def _short(self) -> None:
        began = time.monotonic()
        if await self._whole(self._completion(max_tokens=8)):
            now = time.monotonic()
            self.account.seconds.append((now, now - began))

    async def _same_again(self) -> None:
        """What a greedy answer says depends on nothing that others do: batches, chunks, preemption, prefix hits."""
        body = self._completion(prompt=list(range(300, 340)), max_tokens=16, temperature=0)
        if answer := await self._whole(body):
            text = answer["choices"][0]["text"]
            self._known_answer = self._known_answer or text
            assert text == self._known_answer, "the same request was answered differently"

    async def _stream(self) -> None:
        body = self._chat(max_tokens=self._random.randint(1, 48), stream_options={"include_usage": True})
        async with aclosing(self._events("/v1/chat/completions", body)) as events:
            seen = [event async for event in events]
        self._check_stream(seen, choices=1)

    async def _choices(self) -> None:
        body = self._completion(max_tokens=12, n=3, stream_options={"include_usage": True})
        async with aclosing(self._events("/v1/completions", body)) as events:
            seen = [event async for event in events]
        self._check_stream(seen, choices=3)

    async def _stop_string(self) -> None:
        if answer := await self._whole(self._completion(max_tokens=64, stop=["a", "e", " ", "的"])):
            (choice,) = answer["choices"]
            assert "a" not in choice["text"]

    async def _logprobs(self) -> None:
        if answer := await self._whole(self._completion(max_tokens=6, logprobs=3, echo=True)):
            (choice,) = answer["choices"]
            assert len(choice["logprobs"]["tokens"]) == answer["usage"]["total_tokens"]

    async def _long_prompt(self) -> None:
        """Computed in chunks. All begin alike, so some find their beginning in the cache."""
        length = self._random.randint(self._context // 4, self._context - 80)
        prompt = [300 + i % 1000 for i in range(length - 8)] + [self._random.randint(300, 1300) for _ in range(8)]
        await self._whole(self._completion(prompt=prompt, max_tokens=64))

    async def _long_answer(self) -> None:
        """Where the cache is small, some that grow together have to give way to each other."""
        await self._whole(self._completion(max_tokens=self._context // 3))

    async def _structured(self) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": _SCHEMA}}
        body = self._completion(max_tokens=64, ignore_eos=False, response_format=wanted)
        if (answer := await self._whole(body)) and answer["choices"][0]["finish_reason"] == "stop":
            assert json.loads(answer["choices"][0]["text"]).keys() == {"city", "warm"}

    async def _burst(self) -> None:
        """More sequences at once than there are places: some are refused, and told when to come back."""
        await asyncio.gather(*(self._whole(self._completion(max_tokens=8, n=4)) for _ in range(8)))

    # -- clients that leave --------------------------------------------------------------------------------------------

    async def _leave_at_once(self) -> None:
        """The whole request is sent, and nothing is waited for. By hand, so that this is exact."""
        n = self._random.choice([1, 1, 2])
        content = json.dumps(self._completion(max_tokens=64, n=n, stream=self._random.random() < 0.5)).encode()
        where = urlsplit(str(self._client.base_url))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(content)}\r\n\r\n"
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(head.encode() + content)
        await writer.drain()
        await asyncio.sleep(self._random.random() * 0.05)
        writer.close()
        await writer.wait_closed()
        self.account.sent += 1
        self.account.left_early += 1
        self.account.abandoned += n

    async def _leave_in_the_middle(self) -> None:
        n = self._random.choice([1, 2])
        async with aclosing(self._events("/v1/completions", self._completion(max_tokens=200, n=n))) as events:
            async for _ in events:
                self.account.abandoned += n
                return

    # -- bad requests --------------------------------------------------------------------------------------------------

    async def _malformed(self) -> None:
        await self._refused(400, self._random.choice(_MALFORMED))

    async def _too_long(self) -> None:
        await self._refused(400, json.dumps(self._completion(prompt=[300] * (self._context + 1))).encode())

    async def _oversize(self) -> None:
        await self._refused(413, b" " * (self._body_limit + 1))

    async def _wrong_route(self) -> None:
        self._note(await self._client.post("/v1/nothing", json={}), 404)
        self._note(await self._client.get("/v1/completions"), 405)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _completion(self, **fields: Any) -> Body:
        words = " ".join(self._random.choices(("你好", "天气", "weather", "today", "文心"), k=8))
        fields = {"prompt": words, "temperature": 0.8, "ignore_eos": True, "unknown_field": 1} | fields
        return {"model": self._model, **fields}

    def _chat(self, **fields: Any) -> Body:
        return {"model": self._model, "messages": [{"role": "user", "content": "今天天气怎么样"}], **fields}

    async def _whole(self, body: Body) -> Body | None:
        """Ask for an answer in one piece; None where all places are taken."""
        response = await self._client.post("/v1/completions", json=body)
        if self._note(response, 200, 503) == 503:
            return None
        answer: Body = response.json()
        assert len(answer["choices"]) == body.get("n", 1)
        self.account.ended.update(choice["finish_reason"] for choice in answer["choices"])
        return answer

    async def _events(self, path: str, body: Body) -> AsyncGenerator[str, None]:
        """Ask for a stream; yields nothing where all places are taken."""
        async with self._client.stream("POST", path, json=body | {"stream": True}) as response:
            if self._note(response, 200, 503) == 200:
                async for line in response.aiter_lines():
                    if line:
                        yield line.removeprefix("data: ")

    async def _refused(self, status: int, content: bytes) -> None:
        response = await self._client.post("/v1/completions", content=content)
        if self._note(response, status, 503) == status:
            assert response.json()["error"]["message"]

    def _note(self, response: httpx.Response, *expected: int) -> int:
        self.account.sent += 1
        self.account.answers[response.status_code] += 1
        if response.status_code not in expected:
            said = response.text if response.is_closed else ""
            raise AssertionError(f"{response.status_code} instead of {expected}: {said}")
        assert response.status_code != 503 or "retry-after" in response.headers
        return response.status_code

    def _check_stream(self, events: list[str], *, choices: int) -> None:
        """Every choice ends once, the usage comes, and then nothing but [DONE]."""
        if not events:
            return
        assert events[-1] == "[DONE]", f"a stream ended with {events[-1]}"
        chunks = [json.loads(event) for event in events[:-1]]
        assert not any("error" in chunk for chunk in chunks), f"a stream ended with {chunks[-1]}"
        endings = [
            (choice["index"], choice["finish_reason"])
            for chunk in chunks
            for choice in chunk["choices"]
            if choice["finish_reason"]
        ]
        assert sorted(index for index, _ in endings) == list(range(choices)), f"endings {endings}"
        assert chunks[-1]["usage"]["completion_tokens"] >= choices
        self.account.ended.update(reason for _, reason in endings)
