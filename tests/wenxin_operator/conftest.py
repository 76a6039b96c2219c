from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.wenxin_operator.fake_api import FakeApi
from tests.wenxin_operator.fake_cluster import FakeCluster, claim
from tests.wenxin_operator.passes import INLINE
from wenxin_operator.names import WENXIN_DEPLOYMENT


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


@pytest.fixture
async def cluster() -> FakeCluster:
    """One CPU deployment that serves with one replica, at rest."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_DEPLOYMENT, "ernie", INLINE)
    await cluster.settle()
    cluster.finish_inspection("ernie")
    await cluster.settle()
    cluster.run_pods("ernie")
    await cluster.settle()
    return cluster
