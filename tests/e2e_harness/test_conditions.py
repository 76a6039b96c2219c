from typing import Any

import pytest

from e2e.harness.cluster import condition_holds


def thing(generation: int, observed: int | None, status: str, *, on_condition: bool = False) -> dict[str, Any]:
    condition: dict[str, Any] = {"type": "Ready", "status": status}
    state: dict[str, Any] = {"conditions": [condition]}
    if observed is not None:
        (condition if on_condition else state)["observedGeneration"] = observed
    return {"metadata": {"generation": generation}, "status": state}


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (thing(2, 2, "True"), True),
        (thing(2, 1, "True"), False),
        (thing(2, 1, "True", on_condition=True), False),
        (thing(2, 2, "False"), False),
        (thing(2, None, "True"), True),
        ({"metadata": {}}, False),
    ],
    ids=["current", "stale status", "stale condition", "another status", "a kind without generations", "no status yet"],
)
def test_a_condition_counts_only_when_it_speaks_of_the_newest_spec(found: dict[str, Any], holds: bool) -> None:
    assert condition_holds(found, "Ready", "True") is holds
