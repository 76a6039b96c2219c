"""A real Redis on a socket of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.redis_server import RedisServer


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
