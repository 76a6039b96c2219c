"""Two copies run, by accident or for safety: one works, and the other takes over when it is gone."""

from collections.abc import Iterator

import pytest

from e2e.stories.endpoint import Endpoint
from e2e.stories.installation import NAME, Operator


@pytest.fixture
def two(operator: Operator) -> Iterator[Operator]:
    operator.scale(2)
    yield operator
    operator.scale(1)


def test_one_works_and_the_other_takes_over(two: Operator, tiny: Endpoint) -> None:
    leader, waiting = _leader(two), _others(two)
    assert len(waiting) == 1
    assert two.metrics(waiting[0])["wenxin_operator_leader"] == 0
    assert sum(value for name, value in two.metrics(waiting[0]).items() if "reconcile_total{" in name) == 0

    tiny.cluster.kubectl("delete", f"pod/{leader}", "--force", "--grace-period=0", namespace=two.namespace)
    two.cluster.wait(lambda: _leader(two) not in ("", leader), seconds=60, what="another holder of the Lease")
    tiny.cluster.delete(f"service/{tiny.name}", namespace=tiny.namespace, wait=True)
    tiny.cluster.wait(lambda: "Service/tiny" in tiny.children(), seconds=30, what="the Service to come back")


def _leader(operator: Operator) -> str:
    lease = operator.cluster.get(f"lease/{NAME}", namespace=operator.namespace)
    return str(lease["spec"].get("holderIdentity") or "")


def _others(operator: Operator) -> list[str]:
    return [pod["metadata"]["name"] for pod in operator.pods() if pod["metadata"]["name"] != _leader(operator)]
