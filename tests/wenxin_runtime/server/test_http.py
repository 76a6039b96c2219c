"""Request ids, the access log, and the routes for machines but metrics."""

import asyncio
import logging
import re
import socket

import pytest

from tests.wenxin_runtime.server.conftest import NAME, Running, Start
from wenxin_runtime import __version__
from wenxin_runtime.errors import CheckpointError, ConfigError
from wenxin_runtime.server.serve import listen
from wenxin_runtime.server.served_model import _defaults

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_version_is_told(server: Running) -> None:
    assert (await server.client.get("/version")).json() == {"version": __version__}


async def test_models_are_listed_with_their_context(server: Running) -> None:
    (card,) = (await server.client.get("/v1/models")).json()["data"]
    assert card.pop("created") > 1_700_000_000
    assert card == {"object": "model", "id": NAME, "max_model_len": 256, "owned_by": "wenxin"}
    assert (await server.client.get(f"/v1/models/{NAME}")).json()["id"] == NAME
    assert (await server.client.get("/v1/models/org/other")).status_code == 404


async def test_a_request_id_is_kept_or_made(server: Running) -> None:
    response = await server.client.get("/version", headers={"X-Request-Id": "trace-7"})
    assert response.headers["x-request-id"] == "trace-7"
    for unusable in ("x" * 200, "a\tb", "a status=200", ""):
        response = await server.client.get("/version", headers={"X-Request-Id": unusable})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    refused = await server.post("completions", prompt="")
    assert refused.headers["x-request-id"]


async def test_the_access_log_tells_what_happened_and_nothing_that_was_said(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await server.client.post(
        "/v1/completions?key=secret", json={"prompt": "secret", "max_tokens": -1}, headers={"X-Request-Id": "trace-8"}
    )
    await server.client.get("/a%0Ab")
    await server.client.get("/health")
    lines = [record.getMessage() for record in caplog.records if record.name == "wenxin_runtime.access"]
    assert re.fullmatch(r"request id=trace-8 method=POST path=/v1/completions status=400 seconds=\d+\.\d{3}", lines[0])
    assert "path=/a%0Ab status=404" in lines[1]
    assert len(lines) == 2
    assert not any("secret" in record.getMessage() for record in caplog.records if record.name.startswith("wenxin"))


async def test_a_generated_answer_leaves_one_line_with_its_sizes_times_and_endings(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with start() as server:
        pending = server.posting("completions", prompt="secret", n=2)
        first, second = await server.engine.submits(2)
        await server.engine.write(first, 300, queue_seconds=0.25, prefill_seconds=0.5, cached_tokens=0)
        await server.engine.write(first, 301, finish_reason="length")
        await server.engine.write(second, 300, queue_seconds=1.5, prefill_seconds=0.5)
        await server.engine.write(second, finish_reason="stop", stop_token_id=2)
        answer = (await pending).json()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "wenxin_runtime.access"]
    found = re.fullmatch(
        r"request id=[0-9a-f]{32} method=POST path=/v1/completions status=200 seconds=\d+\.\d{3} answer=(\S+)"
        r" sequences=2 prompt_tokens=(\d+) cached_tokens=0 tokens=3 queue=1\.500 first_token=\d+\.\d{3}"
        r" finish=length:1,stop:1",
        line,
    )
    assert found, line
    assert found.groups() == (answer["id"], str(answer["usage"]["prompt_tokens"]))


async def test_an_unexpected_failure_is_our_fault_and_says_nothing_else(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server.server.service.model.tokenizer, "encode", None)
    response = await server.post("completions", prompt="hi")
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "internal error",
        "type": "internal_error",
        "param": None,
        "code": "internal_error",
    }
    assert "through our own fault" in caplog.text


async def test_an_unexpected_failure_in_a_stream_is_an_error_event(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = server.events("completions", prompt="hi")
    opening = asyncio.ensure_future(anext(stream))
    submit = await server.engine.submit()
    await server.engine.write(submit, 300)
    await opening
    monkeypatch.setattr(type(server.server.service.model.tokenizer.pieces), "__getitem__", None)
    await server.engine.write(submit, 301)
    (event,) = [event async for event in stream]
    assert event["error"]["code"] == "internal_error"
    monkeypatch.undo()
    assert await server.engine.aborted() == (submit.request_id,)


async def test_ipv6_is_an_address_like_others(start: Start) -> None:
    try:
        listen("::1", 0).close()
    except ConfigError:
        pytest.skip("no IPv6 on this machine")
    async with start(host="::1") as server:
        assert server.server.url.startswith("http://[::1]:")
        assert (await server.client.get("/health")).status_code == 200


async def test_an_address_that_cannot_be_had_names_its_flags() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="--host no-such-host"):
        listen("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, (None, None)),
        ('{"temperature": 1, "top_k": 50, "eos_token_id": [2], "x": Infinity}', (1.0, 50)),
        ('{"temperature": null}', (None, None)),
    ],
)
async def test_sampling_defaults_come_from_generation_config(tmp_path, content, found) -> None:
    path = tmp_path / "generation_config.json"
    if content is not None:
        path.write_text(content)
    defaults = _defaults(path)
    assert (defaults.temperature, defaults.top_k) == found


@pytest.mark.parametrize("content", ["{", '{"temperature": "hot"}', "[]"])
async def test_a_broken_generation_config_is_named(tmp_path, content) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        _defaults(path)
