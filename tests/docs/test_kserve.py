"""What docs/kserve.md shows runs against a server started as it says."""

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.wenxin_runtime.server.conftest import NAME, Running, running_server
from wenxin_runtime import fixture
from wenxin_runtime.server.kserve.signature import INPUTS, OUTPUTS

PAGE = (Path(__file__).parents[2] / "docs" / "kserve.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
REQUESTS = re.findall(r"^curl .*?\n\}'$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_server(fixture.write(tmp_path), tokens="300,301", grpc_port=0) as server:
        yield server


def test_the_page_shows_programs_and_requests() -> None:
    assert (len(PROGRAMS), len(REQUESTS)) == (3, 2)


async def test_every_program_on_the_page_prints_an_answer(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    addresses = {
        "localhost:8000": server.server.url.removeprefix("http://"),
        "localhost:8001": f"127.0.0.1:{server.server.grpc_port}",
        '"ernie"': f'"{NAME}"',
    }
    for program in PROGRAMS:
        for shown, real in addresses.items():
            program = program.replace(shown, real)  # noqa: PLW2901 - step by step
        await asyncio.to_thread(exec, compile(program, "kserve.md", "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out.strip(), program


async def test_every_request_on_the_page_is_answered(server: Running) -> None:
    for request in REQUESTS:
        words = [word for word in shlex.split(request) if word != "--no-buffer"]
        _, url, _, data = words
        path = url.removeprefix("http://localhost:8000").replace("/ernie/", f"/{NAME}/")
        response = await server.client.post(path, content=data)
        first = response.text.removeprefix("data: ").splitlines()[0]
        assert json.loads(first)["text_output"], (request, response.text)


def test_the_page_names_every_tensor() -> None:
    shown = set(re.findall(r"`(\w+)`", PAGE))
    implied = {each.name for each in INPUTS if each.name.startswith("return_")}
    assert {each.name for each in (*INPUTS, *OUTPUTS)} - implied <= shown
