"""The requests that docs/api.md shows are answered by a server started as it says."""

import json
import re
import shlex
from pathlib import Path

from tests.wenxin_runtime.server.conftest import NAME, running_server
from wenxin_runtime import fixture

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
REQUESTS = re.findall(r"^curl .*?\n\}'$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_page_shows_requests() -> None:
    assert len(REQUESTS) == 4


async def test_every_request_on_the_page_is_answered(tmp_path: Path) -> None:
    directory = fixture.write(tmp_path, thinking=True)
    async with running_server(directory, tokens="300,301") as server:
        for request in REQUESTS:
            _, url, _, header, _, data = shlex.split(request)
            body = json.loads(data) | {"model": NAME, "max_tokens": 8}  # the scripted engine's context is small
            name, value = header.split(": ")
            response = await server.client.post(
                url.removeprefix("http://127.0.0.1:8000"), content=json.dumps(body), headers={name: value}
            )
            assert response.status_code == 200, (request, response.text)
