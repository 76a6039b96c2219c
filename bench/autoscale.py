"""What thresholds and pace of spec.autoscaling cost and save: a HorizontalPodAutoscaler's own algorithm, simulated.

A pure simulation: bench.hpa is the algorithm, bench.fleet the replicas, bench.arrivals the load. Each row changes one
thing of the defaults and is the mean over five traces of an hour, six seeds and replicas that load for 30 s to 10 min.
`cost` is replicas that were paid for, over those that the load would have kept busy.
"""

import argparse
import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench import environment
from bench.arrivals import SECONDS, TRACES, arrivals
from bench.fleet import REQUEST_SECONDS, SLOTS, Fleet, Outcome
from wenxin_operator.api.autoscaling import Autoscaling

LOADS = (30, 120, 300, 600)
"""Seconds that a replica loads: 0.3B from a local disk, 21B, and what a hub or a slow disk makes of it."""
MOST = 8
SEEDS = range(1, 7)

Change = Mapping[str, Any]


def _up(*policies: tuple[str, int, int], window: int = 0) -> Change:
    return {"behavior": {"scaleUp": {"stabilizationWindowSeconds": window, "policies": _policies(policies)}}}


def _down(*policies: tuple[str, int, int], window: int = 300) -> Change:
    return {"behavior": {"scaleDown": {"stabilizationWindowSeconds": window, "policies": _policies(policies)}}}


def _policies(policies: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    return [{"type": kind, "value": value, "periodSeconds": seconds} for kind, value, seconds in policies]


THRESHOLDS: Mapping[str, Change] = {
    "defaults": {},
    **{f"queueDepth {depth}": {"queueDepth": depth} for depth in (1, 2, 10, 20, 50)},
    **{f"runningPercent {percent}": {"runningPercent": percent} for percent in (50, 60, 70, 90)},
    "queue alone": {"runningPercent": -1},
}
PACE: Mapping[str, Change] = {
    "defaults": {},
    "up: 1 in 60 s": _up(("Pods", 1, 60)),
    "up: 4 in 60 s": _up(("Pods", 4, 60)),
    "up: double in 15 s (Kubernetes' own)": _up(("Pods", 4, 15), ("Percent", 100, 15)),
    "up: after 30 s": _up(("Pods", 2, 60), window=30),
    "up: after 120 s": _up(("Pods", 2, 60), window=120),
    "down: 1 in 60 s": _down(("Pods", 1, 60)),
    "down: all at once (Kubernetes' own)": _down(("Percent", 100, 15)),
    "down: after 60 s": _down(("Pods", 1, 120), window=60),
    "down: after 900 s": _down(("Pods", 1, 120), window=900),
}


def spec(change: Change) -> Autoscaling:
    """The defaults with one change. A runningPercent of -1 stands for none: no load comes near to its target."""
    if change.get("runningPercent") == -1:
        return Autoscaling(max_replicas=MOST).model_copy(update={"running_percent": 10_000})
    return Autoscaling.model_validate({"maxReplicas": MOST, **change})


def simulate(asked: Autoscaling, trace: str, load_seconds: int, seed: int) -> Outcome:
    """One hour."""
    coming = arrivals(TRACES[trace], SLOTS / REQUEST_SECONDS, seed)
    return Fleet(asked, float(load_seconds), random.Random(seed)).run(coming)


def needed_seconds(trace: str) -> float:
    """Replica-seconds that would have been enough, had each been busy throughout."""
    return math.fsum(TRACES[trace](float(second)) for second in range(SECONDS))


def row(name: str, asked: Autoscaling, traces: Sequence[str], loads: Sequence[int], seeds: Sequence[int]) -> Any:
    """The mean over traces, loads and seeds."""
    runs = [(trace, simulate(asked, trace, load, seed)) for trace in traces for load in loads for seed in seeds]
    offered = [len(run.waits) + run.refused for _, run in runs]
    return {
        "setting": name,
        "waited_p50_s": _mean(_quantile(run.waits, 0.50) for _, run in runs),
        "waited_p95_s": _mean(_quantile(run.waits, 0.95) for _, run in runs),
        "waited_p99_s": _mean(_quantile(run.waits, 0.99) for _, run in runs),
        "refused_rate": round(statistics.mean(run.refused / n for (_, run), n in zip(runs, offered, strict=True)), 4),
        "cost": _mean(run.replica_seconds / needed_seconds(trace) for trace, run in runs),
        "most_replicas": _mean(run.most for _, run in runs),
        "changes_an_hour": _mean(run.changes for _, run in runs),
    }


def _quantile(waits: list[float], share: float) -> float:
    ordered = sorted(waits)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _mean(values: Any) -> float:
    return float(round(statistics.mean(values), 2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate all, print and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.autoscale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one trace and one seed; writes nothing")
    options = parser.parse_args(arguments)
    traces, loads, seeds = (("burst",), (120,), (1,)) if options.quick else (tuple(TRACES), LOADS, SEEDS)
    results = {
        "thresholds": [row(name, spec(change), traces, loads, seeds) for name, change in THRESHOLDS.items()],
        "pace": [row(name, spec(change), traces, loads, seeds) for name, change in PACE.items()],
        "traces": [row(trace, spec({}), (trace,), loads, seeds) for trace in traces],
        "time to load": [row(f"{load} s", spec({}), traces, (load,), seeds) for load in loads],
    }
    print(json.dumps(results, indent=2))
    if not options.quick:
        plan = {"slots": SLOTS, "request_seconds": REQUEST_SECONDS, "max_replicas": MOST, "load_seconds": list(loads)}
        # Nothing is timed, so nobody else on the machine disturbs.
        print(f"written to {environment.write_result('autoscale', environment.describe(), results, plan=plan)}")


if __name__ == "__main__":
    main()
