"""Deployments that serve weights that are fetched."""

import pytest

from tests.wenxin_operator import downloads
from tests.wenxin_operator.downloads import CPU, SMALL, asked_for, mounted, serving
from tests.wenxin_operator.fake_cluster import FakeCluster, claim
from tests.wenxin_operator.passes import set_spec
from wenxin_operator.names import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    JOB,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
)


class TestServing:
    async def test_an_inline_preset_makes_a_model_and_serves_it_from_its_claim(self) -> None:
        cluster = await serving()
        assert cluster.objects[WENXIN_MODEL, "ernie"]["spec"] == SMALL
        assert mounted(cluster)[0] == "ernie-weights"
        assert mounted(cluster)[1].startswith("/models/ernie-weights/ERNIE-4.5-0.3B-PT-")
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["status"] == "True"

    async def test_deployments_share_what_was_fetched_once(self) -> None:
        cluster = await asked_for(SMALL, "shared")
        for name in ("chat", "batch"):
            cluster.create(WENXIN_DEPLOYMENT, name, {**CPU, "model": {"ref": "shared"}})
        await cluster.settle()
        downloads.finish(cluster, "shared")
        await cluster.settle()
        assert mounted(cluster, "chat") == mounted(cluster, "batch")
        assert len(cluster.names(JOB)) == 1

    async def test_a_target_that_an_older_operator_kept_lies_where_its_source_says(self) -> None:
        cluster = FakeCluster()
        claim(cluster)
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {**CPU, "model": {"source": "pvc://weights/ernie"}})
        await cluster.settle()
        cluster.finish_inspection("ernie")
        await cluster.settle()
        (kept,) = cluster.names(CONTROLLER_REVISION)
        assert "location" not in cluster.objects[CONTROLLER_REVISION, kept]["data"]["model"]
        assert mounted(cluster) == ("weights", "/models/weights/ernie")

    async def test_other_means_roll_out_nothing(self) -> None:
        cluster = await serving()
        template = cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"]
        set_spec(cluster, model={**SMALL, "mirror": "https://mirror.example.com"})
        await cluster.settle()
        assert cluster.objects[DEPLOYMENT, "ernie"]["spec"]["template"] == template
        assert cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Ready")["status"] == "True"

    @pytest.mark.parametrize("inline", [True, False])
    async def test_what_can_not_fit_is_said_before_it_is_fetched(self, inline: bool) -> None:
        large = {"preset": "ernie-4.5-300b-a47b"}
        cluster = FakeCluster()
        if not inline:
            cluster.create(WENXIN_MODEL, "shared", large)
        products = {"accelerator": {"products": ["NVIDIA-A100-SXM4-80GB"]}}
        cluster.create(WENXIN_DEPLOYMENT, "ernie", {**products, "model": large if inline else {"ref": "shared"}})
        await cluster.settle()
        accepted = cluster.condition(WENXIN_DEPLOYMENT, "ernie", "Accepted")
        assert accepted["reason"] == "DoesNotFit"
        assert accepted["message"].startswith("model ernie-4.5-300b-a47b with 8192 tokens of context lacks")
        assert ("ernie" in cluster.names(WENXIN_MODEL)) is False
