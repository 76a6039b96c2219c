"""A stream under way, seen as the wire shows it, so that a story can say how exactly it ended."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Ending:
    """How a stream ended.

    Attributes:
        chunks: tokens' chunks that came after the stream was opened.
        error: the body of an error event, if one came.
        done: whether `[DONE]` came.
        finish_reason: what the last chunk with a reason said.
        cut: whether the connection broke in the middle of the answer.
    """

    chunks: int
    error: dict[str, Any] | None
    done: bool
    finish_reason: str | None
    cut: bool


class Stream:
    """A streamed completion whose first chunk has arrived."""

    def __init__(self, response: httpx.Response) -> None:
        self._events = _events(response)
        self._chunks = 0
        self._error: dict[str, Any] | None = None
        self._reason: str | None = None
        self._done = False
        self._read(next(self._events))
        assert self._chunks, "the stream ended before its first token"

    def outlasts_its_first_chunk(self) -> None:
        """Fail unless there is something left to disturb."""
        assert self._reason is None, "a stream that a story disturbs must outlast its first chunk"

    def rest(self) -> Ending:
        """Read to the end, whatever that is."""
        cut = False
        try:
            for event in self._events:
                self._read(event)
        except httpx.TransportError:
            cut = True
        return Ending(self._chunks, self._error, self._done, self._reason, cut)

    def _read(self, event: str) -> None:
        if event == "[DONE]":
            self._done = True
            return
        body = json.loads(event)
        if "error" in body:
            self._error = body["error"]
            return
        self._chunks += 1
        for choice in body.get("choices", []):
            self._reason = choice.get("finish_reason") or self._reason


@contextmanager
def streaming(
    client: httpx.Client, model: str, max_tokens: int, choices: int = 1, *, to_disturb: bool = True
) -> Iterator[Stream]:
    """A stream of `choices` answers of exactly `max_tokens` tokens, unless somebody disturbs it."""
    body = {
        "model": model,
        "prompt": "你好",
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "n": choices,
    }
    with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        stream = Stream(response)
        if to_disturb:
            stream.outlasts_its_first_chunk()
        yield stream


def _events(response: httpx.Response) -> Iterator[str]:
    yield from (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
