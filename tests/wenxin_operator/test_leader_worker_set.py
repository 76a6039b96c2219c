"""What we say to the controller of LeaderWorkerSets is what it publishes that it understands."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.wenxin_operator.leader_worker_sets import SPEC
from wenxin_operator.names import LEADER_WORKER_SET, STATEFUL_SET

GOLDEN = Path(__file__).parent / "golden"


def manifest(golden: str, kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((GOLDEN / golden).read_text())
    return next(one for one in documents if one.get("kind") == kind)


def test_a_leader_worker_set_says_only_what_its_schema_has() -> None:
    Draft7Validator.check_schema(SPEC)
    Draft7Validator(SPEC).validate(manifest("groups-lws.yaml", LEADER_WORKER_SET)["spec"])


@pytest.mark.parametrize("change", [{"size": 2}, {"rolloutStrategy": {"type": "OnDelete"}}, {"replicas": "2"}])
def test_the_schema_finds_what_is_wrong(change: dict[str, Any]) -> None:
    spec = manifest("groups-lws.yaml", LEADER_WORKER_SET)["spec"]
    assert not Draft7Validator(SPEC).is_valid(spec | change)


def test_a_rollout_always_has_a_way_to_go_on() -> None:
    pace = manifest("groups-lws.yaml", LEADER_WORKER_SET)["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]
    assert pace["maxUnavailable"] + pace["maxSurge"] == 1


def test_its_pods_are_those_of_a_stateful_set_but_for_how_they_learn_their_place() -> None:
    lws = manifest("groups-lws.yaml", LEADER_WORKER_SET)["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
    stateful = manifest("groups.yaml", STATEFUL_SET)["spec"]["template"]["spec"]
    (ours,), (other) = lws["containers"], stateful["containers"][0]
    assert ours["args"][:3] == other["args"][:3]
    assert ours | {"args": [], "env": []} == other | {"args": [], "env": []}
    assert lws | {"containers": [], "topologySpreadConstraints": []} == stateful | {
        "containers": [],
        "topologySpreadConstraints": [],
    }
