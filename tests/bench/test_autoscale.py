"""The simulation behind the published thresholds; a story holds the same algorithm to the real controller."""

import itertools
import json
import math
import random

import pytest

from bench import autoscale, environment
from bench.arrivals import SECONDS, TRACES, arrivals
from bench.fleet import Fleet
from bench.hpa import Autoscaler, Metric, proposal, proposals
from wenxin_operator.api.autoscaling import Autoscaling


def asked(**fields):
    return Autoscaling.model_validate({"minReplicas": 1, "maxReplicas": 10, **fields})


def queue(*waiting, missing=0, pending=0, target=5):
    return Metric(tuple(1000 * each for each in waiting), 1000 * target, missing, pending)


def policy(kind, value, seconds):
    return {"type": kind, "value": value, "periodSeconds": seconds}


@pytest.mark.parametrize(
    ("metric", "current", "wanted"),
    [
        pytest.param(queue(20), 1, 4, id="as many as bring the average to its target"),
        pytest.param(queue(5, 5, 5, 6), 4, 4, id="within a tenth nothing changes"),
        pytest.param(queue(0, 0), 2, 0, id="nothing waits, nothing is wanted"),
        pytest.param(queue(20, missing=3), 4, 4, id="what loads counts as idle before a growth, so it is waited for"),
        pytest.param(queue(20, pending=3), 4, 4, id="what is not placed yet, too"),
        pytest.param(queue(0, missing=3), 4, 3, id="before a shrink a silent pod counts as working at its target"),
        pytest.param(queue(missing=2), 2, None, id="with nothing measured, nothing can be told"),
    ],
)
def test_one_metric_proposes_what_the_controllers_formula_says(metric, current, wanted):
    assert proposal(metric, current) == wanted


def test_the_larger_proposal_wins_and_a_metric_that_is_missing_forbids_a_shrink():
    blind = Metric((), 5000)
    assert proposals([queue(5, 5), queue(10, 10)], 2) == 4
    assert proposals([queue(0, 0), blind], 2) is None
    assert proposals([queue(20), blind], 1) == 4
    assert proposals([blind, blind], 3) is None


def test_growth_keeps_to_its_policy_and_a_shrink_waits_for_its_window():
    down = {"stabilizationWindowSeconds": 300, "policies": [policy("Pods", 1, 120)]}
    autoscaler = Autoscaler(asked(behavior={"scaleUp": {"policies": [policy("Pods", 2, 60)]}, "scaleDown": down}))
    count, counts = 1, {}
    for now in range(0, 1200, 15):
        count = autoscaler.step(float(now), count, [queue(*[50 if now < 120 else 0] * count)])
        counts[now] = count
    assert [counts[at] for at in (0, 45, 60, 105, 120)] == [3, 3, 5, 5, 5], "two a minute"
    assert counts[390] == 5, "five minutes of what was wanted last"
    falls = [now for now in range(15, 1200, 15) if counts[now] < counts[now - 15]]
    assert [second - first for first, second in itertools.pairwise(falls)] == [120, 120, 120]
    assert count == 1


def test_a_direction_that_is_disabled_is_never_taken():
    still = {"selectPolicy": "Disabled"}
    autoscaler = Autoscaler(asked(behavior={"scaleUp": still, "scaleDown": still}))
    assert autoscaler.step(0.0, 2, [queue(50, 50)]) == 2
    assert Autoscaler(asked(behavior={"scaleDown": still})).step(0.0, 2, [queue(0, 0)]) == 2


def test_a_count_out_of_range_is_brought_into_it_whatever_is_measured():
    assert Autoscaler(asked(minReplicas=3)).step(0.0, 1, [queue(0)]) == 3
    assert Autoscaler(asked(maxReplicas=4)).step(0.0, 9, []) == 4
    assert Autoscaler(asked()).step(0.0, 0, []) == 0, "zero switches it off"


@pytest.mark.parametrize("trace", TRACES)
def test_a_fleet_loses_no_request_and_stays_in_its_range(trace):
    coming = arrivals(TRACES[trace], 2.0, seed=3)
    fleet = Fleet(asked(maxReplicas=4), 60.0, random.Random(3))
    came = fleet.run(coming)
    waiting = sum(len(replica.waiting) for replica in fleet.replicas)
    assert len(came.waits) + came.refused + waiting == sum(coming)
    assert came.most <= 4
    assert came.replica_seconds >= SECONDS


def test_arrivals_follow_their_trace_and_repeat_by_seed():
    steady = TRACES["steady"]
    coming = arrivals(steady, 2.0, seed=1)
    assert coming == arrivals(steady, 2.0, seed=1)
    assert sum(coming) == pytest.approx(1.7 * 2.0 * SECONDS, abs=5 * math.sqrt(1.7 * 2.0 * SECONDS))


def test_a_quick_run_shows_every_row_and_publishes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path / "results")
    autoscale.main(["--quick"])
    shown = json.loads(capsys.readouterr().out)
    assert [row["setting"] for row in shown["thresholds"]] == list(autoscale.THRESHOLDS)
    assert [row["setting"] for row in shown["pace"]] == list(autoscale.PACE)
    assert shown["thresholds"][0] == shown["pace"][0]
    assert not (tmp_path / "results").exists()
