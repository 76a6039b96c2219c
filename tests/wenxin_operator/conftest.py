from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.wenxin_operator.fake_api import FakeApi


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as fake:
        yield fake


@pytest.fixture
def kubeconfig(api: FakeApi, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    context = "contexts: [{name: a, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]"
    path.write_text(f"current-context: a\n{context}\nclusters: [{{name: c, cluster: {{server: '{api.url}'}}}}]\n")
    return path
