"""A pod's own words about how busy it is."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from wenxin_operator import load
from wenxin_operator.load import Load

WORDS = {"waiting": 2, "running": 3, "slots": 4, "queue_size": 100, "kv_usage": 0.5, "draining": False}


def test_what_a_pod_says_is_read() -> None:
    found = Load.parse(WORDS)
    assert found == Load(2, 3, 4, 100, 0.5)
    assert found.sequences == 5


@pytest.mark.parametrize(
    "words", [None, [], "busy", {}, WORDS | {"slots": None}, WORDS | {"waiting": "many"}, WORDS | {"kv_usage": []}]
)
def test_other_words_are_no_load(words: Any) -> None:
    assert Load.parse(words) is None


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def answers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, web.Response]]:
    """A pod on this machine, and what it will answer."""
    given: dict[str, web.Response] = {}

    async def answer(_: web.Request) -> web.Response:
        return given["next"]

    application = web.Application()
    application.router.add_get("/load", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setattr(load, "PORT", runner.addresses[0][1])
    yield given
    await runner.cleanup()


POD = {"status": {"podIP": "127.0.0.1"}}


async def test_a_pod_is_asked_at_its_address(session: aiohttp.ClientSession, answers: dict[str, web.Response]) -> None:
    answers["next"] = web.json_response(WORDS)
    assert await load.ask(session, POD) == Load(2, 3, 4, 100, 0.5)


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response(WORDS, status=503),
        web.Response(text="x" * 5000),
        web.Response(text="not JSON"),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
    ids=["an error", "too much", "no JSON", "elsewhere"],
)
async def test_a_pod_that_says_something_else_is_missing(
    session: aiohttp.ClientSession, answers: dict[str, web.Response], answer: web.Response
) -> None:
    answers["next"] = answer
    assert await load.ask(session, POD) is None


async def test_an_answer_of_untold_length_is_read_no_further_than_any_of_ours_is_long(
    session: aiohttp.ClientSession, answers: dict[str, web.Response]
) -> None:
    answers["next"] = web.json_response(WORDS)
    answers["next"].enable_chunked_encoding()
    assert await load.words(session, POD) == WORDS
    answers["next"] = web.Response(text=" " * load.LONGEST_ANSWER + "{}")
    answers["next"].enable_chunked_encoding()
    assert await load.words(session, POD) is None


@pytest.mark.parametrize("status", [None, {}, {"podIP": ""}, {"podIP": "::1"}, {"podIP": "127.0.0.1"}])
async def test_a_pod_that_does_not_answer_is_missing(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, status: Any
) -> None:
    monkeypatch.setattr(load, "PORT", 1)
    assert await load.ask(session, {"status": status}) is None
