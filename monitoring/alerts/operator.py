"""Whether the operator itself does its work. Models go on serving without it; nothing is changed or repaired."""

from monitoring.rules import Alert, Group

_FAILED = 'sum by (kind) (rate(wenxin_operator_reconcile_total{outcome="failed"}[15m]))'
_PASSES = "sum by (kind) (rate(wenxin_operator_reconcile_total[15m]))"
_BAD_ANSWERS = 'sum(rate(wenxin_operator_api_requests_total{code=~"0|429|5.."}[10m]))'
_ANSWERS = "sum(rate(wenxin_operator_api_requests_total[10m]))"

GROUPS = (
    Group(
        "wenxin-operator",
        (
            Alert(
                "WenxinOperatorAbsent",
                "absent(wenxin_operator_leader)",
                "5m",
                "critical",
                "Prometheus sees no copy of the wenxin operator",
                "No copy of the operator has been scraped for 5 minutes: none runs, or Prometheus does not find it."
                " Models go on serving; nothing is rolled out, scaled or repaired.",
            ),
            Alert(
                "WenxinOperatorNoLeader",
                "max(wenxin_operator_leader) == 0",
                "5m",
                "critical",
                "No copy of the wenxin operator leads",
                "Copies of the operator run, and none has held the Lease for 5 minutes, so none works. Their logs say"
                " who holds it, or why it cannot be had.",
            ),
            Alert(
                "WenxinOperatorBlind",
                "min(wenxin_operator_watch_age_seconds) > 300",
                "2m",
                "warning",
                "The wenxin operator could not list everything for {{ $value | humanizeDuration }}",
                "Every copy has a kind of object that it could not list for more than 5 minutes, though it tries every"
                " 2 (resyncInterval). At 10 (watchAge) it restarts itself. Its log names the kind and the error.",
            ),
            Alert(
                "WenxinOperatorStuck",
                "(max(max_over_time(wenxin_operator_queue_length[5m])) > 0)"
                " and (sum(rate(wenxin_operator_reconcile_total[10m])) == 0)",
                "5m",
                "critical",
                "The wenxin operator makes no pass",
                "{{ $value }} resources wait for a pass, and none has ended for 10 minutes.",
            ),
            Alert(
                "WenxinOperatorPassesFail",
                f"{_FAILED} / {_PASSES} > 0.5",
                "15m",
                "warning",
                "Passes over {{ $labels.kind }} fail",
                "{{ $value | humanizePercentage }} of the passes over {{ $labels.kind }} have failed for 15 minutes."
                " The log names resource and error; so does the resource's condition.",
            ),
            Alert(
                "WenxinOperatorLeaseFlaps",
                "sum(changes(wenxin_operator_leader[1h])) > 6",
                "0m",
                "warning",
                "The wenxin operator's Lease changes hands",
                "The Lease was won or lost {{ $value }} times within an hour. A slow API server, or a copy that gets no"
                " CPU, makes renewals late.",
            ),
            Alert(
                "WenxinOperatorApiErrors",
                f"{_BAD_ANSWERS} / {_ANSWERS} > 0.1",
                "15m",
                "warning",
                "The API server fails the wenxin operator",
                "{{ $value | humanizePercentage }} of the operator's requests were not answered, or with 429 or 5xx,"
                " for 15 minutes.",
            ),
        ),
    ),
)
