"""Clients that ask one question after the other while a story goes on, each over a new connection."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import httpx

from e2e.stories.endpoint import Endpoint
from e2e.stories.streams import streaming

STREAMED_TOKENS = 40


@dataclass
class Traffic:
    """What came of the questions so far.

    Attributes:
        answered: Whole answers.
        streamed: Streams that came to their last token and said so.
        failures: All others, in words.
    """

    answered: int = 0
    streamed: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def traffic(endpoint: Endpoint, clients: int = 1, streams: int = 0, tokens: int = STREAMED_TOKENS) -> Iterator[Traffic]:
    """Ask for as long as the block lasts. Nothing is tried twice: what fails here would fail for a user.

    Args:
        endpoint: Whom.
        clients: How many want whole answers.
        streams: How many more want streams.
        tokens: How long each stream is.
    """
    seen, over = Traffic(), threading.Event()
    with endpoint.url() as url:
        ways = [_ask] * clients + [partial(_stream, tokens)] * streams
        asking = [threading.Thread(target=_repeat, args=(way, url, endpoint.name, seen, over)) for way in ways]
        for each in asking:
            each.start()
        try:
            yield seen
        finally:
            over.set()
            for each in asking:
                each.join()


def _repeat(
    way: Callable[[str, str, Traffic], None], url: str, model: str, seen: Traffic, over: threading.Event
) -> None:
    while not over.is_set():
        try:
            way(url, model, seen)
        except (httpx.HTTPError, AssertionError, StopIteration) as error:
            seen.failures.append(repr(error))


def _ask(url: str, model: str, seen: Traffic) -> None:
    body = {"model": model, "prompt": "你好", "max_tokens": 8, "ignore_eos": True}
    httpx.post(f"{url}/v1/completions", json=body, timeout=60.0, trust_env=False).raise_for_status()
    seen.answered += 1


def _stream(tokens: int, url: str, model: str, seen: Traffic) -> None:
    with (
        httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client,
        streaming(client, model, tokens, to_disturb=False) as stream,
    ):
        ending = stream.rest()
    assert ending.done, ending
    assert ending.finish_reason == "length", ending
    seen.streamed += 1
