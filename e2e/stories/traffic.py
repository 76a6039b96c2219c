"""A client that asks one question after the other while a story goes on, each over a new connection."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from e2e.stories.endpoint import Endpoint


@dataclass
class Traffic:
    """What came of the questions so far."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def traffic(endpoint: Endpoint) -> Iterator[Traffic]:
    """Ask for as long as the block lasts. Nothing is tried twice: what fails here would fail for a user."""
    seen, over = Traffic(), threading.Event()
    with endpoint.url() as url:
        asking = threading.Thread(target=_ask, args=(f"{url}/v1/completions", endpoint.name, seen, over))
        asking.start()
        try:
            yield seen
        finally:
            over.set()
            asking.join()


def _ask(url: str, model: str, seen: Traffic, over: threading.Event) -> None:
    body = {"model": model, "prompt": "你好", "max_tokens": 8, "ignore_eos": True}
    while not over.is_set():
        try:
            httpx.post(url, json=body, timeout=60.0, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            seen.failures.append(repr(error))
        else:
            seen.answered += 1
