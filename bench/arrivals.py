"""Load over time for bench.autoscale: how many replicas' worth of requests come at each second."""

import math
import random
from collections.abc import Callable, Mapping

Rate = Callable[[float], float]
"""Seconds -> load, in replicas that work at all their places."""

SECONDS = 3600


def _burst(now: float) -> float:
    """Half a replica's work, for a quarter of an hour that of four."""
    return 4.0 if 600 <= now < 1500 else 0.5


def _ramp(now: float) -> float:
    """From half a replica to five in twenty minutes, and back."""
    return 0.5 + 4.5 * max(0.0, min(1.0, (now - 300) / 1200, (3300 - now) / 1200))


def _spikes(now: float) -> float:
    """A minute of three replicas' work in every ten: over before a slow replica is there."""
    return 3.0 if now % 600 >= 540 else 0.8


def _steady(_: float) -> float:
    """Two replicas' work at 85 %: whoever follows chance here only costs."""
    return 1.7


def _day(now: float) -> float:
    """A day in an hour."""
    return 2.5 - 2.0 * math.cos(2 * math.pi * now / SECONDS)


TRACES: Mapping[str, Rate] = {"burst": _burst, "ramp": _ramp, "spikes": _spikes, "steady": _steady, "day": _day}


def arrivals(rate: Rate, per_replica: float, seed: int) -> list[int]:
    """How many requests come in each second.

    Args:
        rate: The trace.
        per_replica: Requests per second that keep a replica busy.
        seed: Of the Poisson process.
    """
    chance = random.Random(seed)
    return [_poisson(rate(second) * per_replica, chance) for second in range(SECONDS)]


def _poisson(mean: float, chance: random.Random) -> int:
    """Knuth's method: good for the few that come in a second."""
    product, count, limit = chance.random(), 0, math.exp(-mean)
    while product > limit:
        product *= chance.random()
        count += 1
    return count
