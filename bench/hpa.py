"""What a HorizontalPodAutoscaler does with its metrics, as pure functions of the time.

Follows pkg/controller/podautoscaler of Kubernetes 1.36 (replica_calculator.go: calcPlainMetricReplicas; horizontal.go:
computeReplicasForMetrics, normalizeDesiredReplicasWithBehaviors). e2e/stories/operator_api/test_autoscaling.py holds it
to the real controller, count for count.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wenxin_operator.api.autoscaling import Autoscaling, Policy, ScaleDown, ScaleUp

TOLERANCE = 0.1
SYNC_SECONDS = 15.0


@dataclass(frozen=True)
class Metric:
    """One Pods metric with a target of type AverageValue, and what the pods of the selector are worth.

    Attributes:
        values: Of pods that run and have a sample, in thousandths.
        target: In thousandths.
        missing: Pods that run and have none: loading, or silent.
        pending: Pods that do not run yet.
    """

    values: tuple[int, ...]
    target: int
    missing: int = 0
    pending: int = 0


def proposal(metric: Metric, current: int) -> int | None:
    """How many replicas one metric asks for; None where it can not tell."""
    if not metric.values:
        return None
    ratio = _ratio(metric.values, metric.target)
    up_with_pending = metric.pending > 0 and ratio > 1
    if not up_with_pending and not metric.missing:
        return current if _within(ratio) else math.ceil(ratio * len(metric.values))
    # Missing pods would not change the direction: at their target before a shrink, at nothing before a growth.
    assumed = [metric.target if ratio < 1 else 0] * metric.missing if ratio != 1 else []
    assumed += [0] * metric.pending if up_with_pending else []
    values = [*metric.values, *assumed]
    again = _ratio(values, metric.target)
    if _within(again) or (ratio < 1 < again) or (again < 1 < ratio):
        return current
    wanted = math.ceil(again * len(values))
    turned = (again < 1 and wanted > current) or (again > 1 and wanted < current)
    return current if turned else wanted


def proposals(metrics: Iterable[Metric], current: int) -> int | None:
    """The largest; None where none can tell, or where one can not and the others would shrink."""
    each = [proposal(metric, current) for metric in metrics]
    known = [wanted for wanted in each if wanted is not None]
    if not known or (len(known) < len(each) and max(known) < current):
        return None
    return max(known)


@dataclass
class Autoscaler:
    """One HorizontalPodAutoscaler over time.

    Attributes:
        asked: Range and behaviour.
    """

    asked: Autoscaling
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _grown: list[tuple[float, int]] = field(default_factory=list)
    _shrunk: list[tuple[float, int]] = field(default_factory=list)

    def step(self, now: float, current: int, metrics: Sequence[Metric]) -> int:
        """One sync.

        Args:
            now: Seconds.
            current: spec.replicas.
            metrics: What is measured.

        Returns:
            spec.replicas from now on.
        """
        if not self._recommended:
            self._recommended.append((now, current))
        if current == 0:
            return 0
        if not self.asked.min_replicas <= current <= self.asked.max_replicas:
            wanted = min(max(current, self.asked.min_replicas), self.asked.max_replicas)
        else:
            found = proposals(metrics, current)
            if found is None:
                return current
            wanted = self._limited(now, current, self._stabilised(now, current, found))
        if wanted > current:
            self._grown.append((now, wanted - current))
        elif wanted < current:
            self._shrunk.append((now, current - wanted))
        return wanted

    def _stabilised(self, now: float, current: int, wanted: int) -> int:
        """No more than was always wanted lately, no less than was ever wanted lately."""
        behavior = self.asked.behavior
        up = now - behavior.scale_up.stabilization_window_seconds
        down = now - behavior.scale_down.stabilization_window_seconds
        least = min([wanted, *(count for at, count in self._recommended if at > up)])
        most = max([wanted, *(count for at, count in self._recommended if at > down)])
        self._recommended = [one for one in self._recommended if one[0] >= min(up, down)] + [(now, wanted)]
        return min(max(current, least), most)

    def _limited(self, now: float, current: int, wanted: int) -> int:
        behavior, asked = self.asked.behavior, self.asked
        if wanted > current:
            most = max(current, self._limit(now, current, behavior.scale_up, +1))
            return min(wanted, asked.max_replicas, most)
        if wanted < current:
            least = min(current, self._limit(now, current, behavior.scale_down, -1))
            return max(wanted, asked.min_replicas, least)
        return wanted

    def _limit(self, now: float, current: int, rules: ScaleUp | ScaleDown, sign: int) -> int:
        """How far the policies allow to go: the count at the beginning of a policy's period, and its change."""
        if rules.select_policy == "Disabled":
            return current
        limits = [
            _changed(current - _since(self._grown, now, policy) + _since(self._shrunk, now, policy), policy, sign)
            for policy in rules.policies
        ]
        furthest = (rules.select_policy == "Max") is (sign > 0)
        return max(limits) if furthest else min(limits)


def _changed(start: int, policy: Policy, sign: int) -> int:
    if policy.type == "Pods":
        return start + sign * policy.value
    changed = start * (1 + sign * policy.value / 100)
    return math.ceil(changed) if sign > 0 else int(changed)


def _since(events: Iterable[tuple[float, int]], now: float, policy: Policy) -> int:
    return sum(change for at, change in events if at > now - policy.period_seconds)


def _ratio(values: Sequence[int], target: int) -> float:
    return (sum(values) // len(values)) / target


def _within(ratio: float) -> bool:
    return 1 - TOLERANCE <= ratio <= 1 + TOLERANCE
