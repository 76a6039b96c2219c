"""What users of a model notice, or soon will, from what its pods tell.

The goals: 99 % of first tokens within 2.5 s, 99 % of the gaps between tokens within 0.1 s. An alert fires by how fast
the error budget of 30 days is spent, over two windows, so that it comes early and goes when the trouble does
(Site Reliability Workbook, chapter 5). Bounds of the histograms are goals that can be measured exactly; change the
`le` of the recording rules to another one for another goal.
"""

from dataclasses import dataclass

from monitoring.rules import Alert, Group, Recording

_PLACE = "namespace, deployment"
_WHO = "{{ $labels.namespace }}/{{ $labels.deployment }}"
_WINDOWS = ("5m", "30m", "1h", "6h")
_BUDGET = 0.01
_FEWEST = 100  # of what is counted, in an hour: a share of less is no share


def _sum(query: str) -> str:
    return f"sum by ({_PLACE}) ({query})"


@dataclass(frozen=True)
class _Goal:
    """A share of what a histogram counts that must be within one of its bounds.

    Attributes:
        name: As the alerts' names have it.
        metric: The histogram.
        bound: In seconds, as `le` says it.
        of: What is counted.
    """

    name: str
    metric: str
    bound: str
    of: str

    def record(self, window: str) -> str:
        return f"deployment:{self.metric}_slow:ratio_rate{window}"

    def recordings(self) -> tuple[Recording, ...]:
        return tuple(Recording(self.record(window), self._slow(window)) for window in _WINDOWS)

    def _slow(self, window: str) -> str:
        within = _sum(f'rate({self.metric}_bucket{{le="{self.bound}"}}[{window}])')
        return f"1 - {within} / {_sum(f'rate({self.metric}_count[{window}])')}"

    def alerts(self) -> tuple[Alert, Alert]:
        return (
            self._alert("Fast", 14.4, ("1h", "5m"), "2m", "critical"),
            self._alert("Slow", 6, ("6h", "30m"), "15m", "warning"),
        )

    def _alert(self, pace: str, factor: float, windows: tuple[str, str], wait: str, severity: str) -> Alert:
        burnt = " and ".join(f"({self.record(window)} > {factor} * {_BUDGET})" for window in windows)
        enough = f"({_sum(f'increase({self.metric}_count[1h])')} >= {_FEWEST})"
        return Alert(
            f"Wenxin{self.name}Burn{pace}",
            f"{burnt} and {enough}",
            wait,
            "critical" if severity == "critical" else "warning",
            f"{self.of[0].upper()}{self.of[1:]} of {_WHO} are too slow",
            f"{{{{ $value | humanizePercentage }}}} of {self.of} of {_WHO} took longer than {self.bound} s over the"
            f" last {windows[0]}; the goal is 1 %. At this pace the month's budget is spent in"
            f" {'2 days' if severity == 'critical' else '5 days'}.",
        )


_GOALS = (
    _Goal("FirstToken", "wenxin_time_to_first_token_seconds", "2.5", "first tokens"),
    _Goal("TokenGap", "wenxin_inter_token_latency_seconds", "0.1", "gaps between tokens"),
)

_REJECTED = _sum('rate(wenxin_rejections_total{reason="overloaded"}[5m])')
_ANSWERED = _sum("rate(wenxin_http_responses_total[5m])")
_FAILED = _sum('rate(wenxin_requests_total{finish_reason="error"}[5m])')
_ENDED = _sum("rate(wenxin_requests_total[5m])")

GROUPS = (
    Group("wenxin-goals", tuple(rule for goal in _GOALS for rule in goal.recordings())),
    Group(
        "wenxin-service",
        (
            *(alert for goal in _GOALS for alert in goal.alerts()),
            Alert(
                "WenxinQueueLong",
                f"{_sum('wenxin_queue_depth')} / {_sum('wenxin_slots')} > 0.5",
                "10m",
                "warning",
                f"Requests queue at {_WHO}",
                f"For 10 minutes {_WHO} has had more than half as many requests waiting as it has slots (now"
                " {{ $value | humanizePercentage }}). Users wait for a first token, and rejections are next.",
            ),
            Alert(
                "WenxinRequestsRejected",
                f"{_REJECTED} / {_ANSWERED} > 0.01",
                "5m",
                "critical",
                f"{_WHO} turns requests away",
                f"{{{{ $value | humanizePercentage }}}} of the requests to {_WHO} were answered 503 in the last 5"
                " minutes because its queue is full.",
            ),
            Alert(
                "WenxinRequestsFail",
                f"{_FAILED} / {_ENDED} > 0.01",
                "5m",
                "critical",
                f"Requests to {_WHO} end with an error",
                f"{{{{ $value | humanizePercentage }}}} of the sequences of {_WHO} ended with an error in the last 5"
                " minutes. The pods' logs say which; an engine that died takes all of its sequences with it.",
            ),
            Alert(
                "WenxinEngineRestarts",
                f'sum by ({_PLACE}, pod) (changes(process_start_time_seconds{{job="wenxin-runtime"}}[1h])) >= 2',
                "0m",
                "warning",
                "{{ $labels.namespace }}/{{ $labels.pod }} restarts again and again",
                "Pod {{ $labels.namespace }}/{{ $labels.pod }} of WenxinDeployment {{ $labels.deployment }} has started"
                " {{ $value }} times within an hour. Its last words are in the deployment's conditions.",
            ),
            Alert(
                "WenxinKvCacheFull",
                f"max by ({_PLACE}, pod) (avg_over_time(wenxin_kv_usage_ratio[10m])) > 0.95"
                f" and max by ({_PLACE}, pod) (rate(wenxin_preemptions_total[10m])) > 0",
                "10m",
                "warning",
                "The KV cache of {{ $labels.namespace }}/{{ $labels.pod }} is full",
                "Pod {{ $labels.namespace }}/{{ $labels.pod }} has used {{ $value | humanizePercentage }} of its KV"
                " cache and puts sequences back to make room: what they had computed is computed again.",
            ),
            Alert(
                "WenxinAnswerCacheDown",
                f"avg by ({_PLACE}) (avg_over_time(wenxin_answer_cache_breaker_open[5m])) > 0.5",
                "5m",
                "warning",
                f"{_WHO} does not reach its answer cache",
                f"For 5 minutes the pods of {_WHO} have given up on their Redis more than half of the time. Nothing"
                " fails, but every repeated prompt is computed.",
            ),
            Alert(
                "WenxinPodSilent",
                f'max by ({_PLACE}, pod) (up{{job="wenxin-runtime"}}) == 0',
                "10m",
                "warning",
                "{{ $labels.namespace }}/{{ $labels.pod }} does not answer Prometheus",
                "Prometheus finds pod {{ $labels.namespace }}/{{ $labels.pod }} of WenxinDeployment"
                " {{ $labels.deployment }} and has had no answer for 10 minutes. A pod answers while it loads, so it"
                " hangs, or a NetworkPolicy keeps Prometheus out.",
            ),
        ),
    ),
)
