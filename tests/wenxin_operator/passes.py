"""What the stories of a pass have in common."""

from typing import Any

from tests.wenxin_operator.fake_cluster import FakeCluster
from wenxin_operator.errors import ApiError
from wenxin_operator.names import (
    WENXIN_DEPLOYMENT,
    Raw,
)

INLINE = {"model": {"source": "pvc://weights/ernie"}, "accelerator": {"resource": "none"}}


def status_of(cluster: FakeCluster, name: str = "ernie", kind: str = WENXIN_DEPLOYMENT) -> Raw:
    return cluster.objects[kind, name]["status"]


def set_spec(cluster: FakeCluster, name: str = "ernie", **changes: Any) -> None:
    cluster.edit(WENXIN_DEPLOYMENT, name, lambda thing: thing.update(spec={**thing["spec"], **changes}))


def refusing(kind: str, error: ApiError, verb: str = "apply") -> Any:
    return lambda tried, thing: error if (tried, thing["kind"]) == (verb, kind) else None
