"""Load on a completions endpoint: which requests come when, and what became of each."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from bench import fixtures
from bench.streams import Stream

_SPREAD = 0.5


@dataclass(frozen=True, slots=True)
class Mix:
    """What the requests look like. Lengths are tokens, spread evenly from half to one and a half of the one given.

    Attributes:
        long_share: How many of the prompts are long ones.
        shared_share: How many begin with one of `shared_prefixes` prefixes of `shared_tokens` tokens.
    """

    short_tokens: int
    long_tokens: int
    long_share: float
    shared_prefixes: int
    shared_tokens: int
    shared_share: float
    output_tokens: int

    def requests(self, seed: str, vocabulary: int) -> Iterator["Request"]:
        """Draw requests without end, the same ones for the same seed."""
        dice = random.Random(seed)
        prefixes = [fixtures.prompt(dice, vocabulary, self.shared_tokens) for _ in range(self.shared_prefixes)]
        while True:
            prefix = dice.choice(prefixes) if dice.random() < self.shared_share else ()
            length = _around(dice, self.long_tokens if dice.random() < self.long_share else self.short_tokens)
            yield Request(prefix + fixtures.prompt(dice, vocabulary, length), _around(dice, self.output_tokens))

    @property
    def most_tokens(self) -> int:
        """Of one sequence."""
        longest = max(self.short_tokens, self.long_tokens) + self.output_tokens
        return self.shared_tokens + int(longest * (1 + _SPREAD)) + 2


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, and how many tokens to generate."""

    prompt: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Case:
    """One load: `closed` keeps `level` requests open, `poisson` sends `level` per second whatever comes back."""

    kind: Literal["closed", "poisson"]
    level: float

    @property
    def name(self) -> str:
        """Such as `poisson 0.5`."""
        return f"{self.kind} {self.level:g}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """No request is sent after `requests` or `seconds`; what is open then has `grace_seconds` to end."""

    requests: int
    seconds: float
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: a whole stream, or the reason why not.

    The stream begins when the request was due, so a client that runs late hides no waiting. `cached_tokens` is None
    where the server does not tell.
    """

    stream: Stream | None
    failure: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint and the model that it serves."""

    client: httpx.AsyncClient
    model: str

    async def ask(self, request: Request, due: float) -> Outcome:
        """Stream one greedy answer of exactly the tokens asked for."""
        body = {
            "model": self.model, "prompt": request.prompt, "max_tokens": request.output_tokens, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, "return_token_ids": True,
        }  # fmt: skip
        arrivals: list[float] = []
        usage: dict[str, Any] = {}
        try:
            async for event in self._events(body):
                usage = event.get("usage") or usage
                arrivals += [time.perf_counter()] * sum(map(_tokens, event.get("choices") or ()))
        except (httpx.HTTPError, _Refused) as error:
            return Outcome(None, failure=str(error) or type(error).__name__)
        generated = usage.get("completion_tokens", len(arrivals))
        if not arrivals or generated != request.output_tokens:
            return Outcome(None, failure=f"{generated} tokens instead of {request.output_tokens}")
        return Outcome(_stream(due, arrivals, request), None, len(request.prompt), _cached(usage))

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async with self.client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                raise _Refused(f"HTTP {response.status_code}")
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise _Refused("an error within the stream")
                    yield event


class _Refused(Exception):
    """The server said no."""


async def run(target: Target, case: Case, bounds: Bounds, requests: Iterator[Request], seed: str) -> list[Outcome]:
    """Put one load on the target; every request that was sent has an outcome."""
    began = time.perf_counter()
    tasks: list[asyncio.Task[Outcome]] = []

    def send(due: float) -> asyncio.Task[Outcome]:
        tasks.append(asyncio.create_task(target.ask(next(requests), due)))
        return tasks[-1]

    def over() -> bool:
        return len(tasks) >= bounds.requests or time.perf_counter() - began > bounds.seconds

    if case.kind == "poisson":
        await _open_loop(case.level, random.Random(seed), send, over)
    else:
        left = bounds.seconds + bounds.grace_seconds
        loops = [asyncio.create_task(_closed_loop(send, over)) for _ in range(int(case.level))]
        await asyncio.wait(loops, timeout=left)
        for loop in loops:
            loop.cancel()
    left = bounds.seconds + bounds.grace_seconds - (time.perf_counter() - began)
    _, open_still = await asyncio.wait(tasks, timeout=max(left, 0))
    for task in open_still:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    return [_outcome(each) for each in ended]


async def _open_loop(
    rate: float, dice: random.Random, send: Callable[[float], "asyncio.Task[Outcome]"], over: Callable[[], bool]
) -> None:
    due = time.perf_counter()
    while not over():
        send(due)
        due += dice.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


async def _closed_loop(send: Callable[[float], "asyncio.Task[Outcome]"], over: Callable[[], bool]) -> None:
    while not over():
        await asyncio.wait([send(time.perf_counter())])


def _outcome(ended: Outcome | BaseException) -> Outcome:
    if isinstance(ended, asyncio.CancelledError):
        return Outcome(None, failure="not ended in time")
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _stream(due: float, arrivals: list[float], request: Request) -> Stream:
    """Give every token a time; where a server does not say which chunk had how many, they share them out evenly."""
    tokens, chunks = request.output_tokens, len(arrivals)
    times = tuple(arrivals[min(i * chunks // tokens, chunks - 1)] for i in range(tokens))
    return Stream(due, times, ())


def _tokens(choice: dict[str, Any]) -> int:
    """How many tokens a chunk brought: as many as it names, else it counts as one."""
    named = choice.get("token_ids")
    return 1 if named is None else len(named)


def _cached(usage: dict[str, Any]) -> int | None:
    found: int | None = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return found


def _around(dice: random.Random, length: int) -> int:
    return max(1, dice.randint(int(length * (1 - _SPREAD)), int(length * (1 + _SPREAD))))
