"""All deployments at a glance: which one needs somebody."""

from monitoring.boards.choices import NAMESPACE, OF_NAMESPACES
from monitoring.grafana import Dashboard, Panel, Query, Row

_EACH = ("namespace", "deployment")
_LEGEND = "{{namespace}}/{{deployment}}"
_CONDITION = "wenxin_operator_deployment_condition"
_REPLICAS = "wenxin_operator_deployment_replicas"
_AVAILABLE = 'condition="Available", reason!="ScaledToZero"'
_FAILED = 'finish_reason="error"'
_FIRING = 'alertname=~"Wenxin.*", alertstate="firing"'
_all = OF_NAMESPACES


def _now(title: str, description: str, unit: str, expr: str, *limits: tuple[float, str]) -> Panel:
    return Panel(title, description, unit, (Query(expr, title),), kind="stat", width=4, height=4, limits=limits)


def _replicas(state: str) -> str:
    return _all.total(_REPLICAS, *_EACH, how="max", where=f'state="{state}"')


def _condition(name: str) -> str:
    return _all.total(_CONDITION, *_EACH, how="max", where=f'condition="{name}"')


_NOW = Row(
    "Now",
    (
        _now(
            "Deployments ready",
            "WenxinDeployments whose newest spec is what answers.",
            "none",
            f"sum({_condition('Ready')})",
        ),
        _now(
            "Not available",
            "WenxinDeployments of which no replica answers, those scaled to zero left out.",
            "none",
            f"sum(1 - {_all.total(_CONDITION, *_EACH, how='max', where=_AVAILABLE)}) or vector(0)",
            (1, "red"),
        ),
        _now("Ready replicas", "Replicas that answer, all deployments together.", "none", f"sum({_replicas('ready')})"),
        _now(
            "GPUs",
            "GPUs of the replicas that are present.",
            "none",
            f"sum({_all.total('wenxin_operator_deployment_gpus', *_EACH, how='max')})",
        ),
        _now(
            "Running",
            "Sequences that are being generated.",
            "none",
            _all.total("wenxin_requests_running"),
        ),
        _now(
            "Waiting",
            "Sequences that wait for a slot. More than a moment's worth means waits for a first token.",
            "none",
            _all.total("wenxin_queue_depth"),
            (10, "yellow"),
            (100, "red"),
        ),
    ),
)

_TABLE = Row(
    "Deployments",
    (
        Panel(
            "Deployments",
            "One row for each. A click on a name shows it alone.",
            "none",
            (
                Query(_condition("Ready"), "Ready"),
                Query(_replicas("ready"), "Replicas ready"),
                Query(_replicas("wanted"), "Replicas wanted"),
                Query(_all.total("wenxin_requests_running", *_EACH), "Running"),
                Query(_all.total("wenxin_queue_depth", *_EACH), "Waiting"),
                Query(_all.rate("wenxin_requests_total", *_EACH), "Requests", "reqps"),
                Query(_all.rate("wenxin_generation_tokens_total", *_EACH), "Tokens/s", "short"),
                Query(_all.quantile(0.95, "wenxin_time_to_first_token_seconds", *_EACH), "First token p95", "s"),
                Query(_all.total("wenxin_kv_usage_ratio", *_EACH, how="max"), "KV cache", "percentunit"),
            ),
            kind="table",
            width=24,
            height=8,
            link=("wenxin-deployment", _EACH),
        ),
    ),
)

_WAITS = Row(
    "What users notice",
    (
        Panel(
            "First token, p95",
            "Time from a request's acceptance to its first token, of the slowest twentieth.",
            "s",
            (Query(_all.quantile(0.95, "wenxin_time_to_first_token_seconds", *_EACH), _LEGEND),),
            limits=((2.5, "red"),),
        ),
        Panel(
            "Gap between tokens, p95",
            "0.1 to 0.2 s is how fast people read.",
            "s",
            (Query(_all.quantile(0.95, "wenxin_inter_token_latency_seconds", *_EACH), _LEGEND),),
            limits=((0.1, "red"),),
        ),
        Panel(
            "Turned away or failed",
            "Requests that were not accepted, and sequences that ended with an error, each second.",
            "reqps",
            (
                Query(_all.rate("wenxin_rejections_total", *_EACH), f"{_LEGEND} rejected"),
                Query(_all.rate("wenxin_requests_total", *_EACH, where=_FAILED), f"{_LEGEND} failed"),
            ),
        ),
    ),
)

_LOAD = Row(
    "Load",
    (
        Panel(
            "Requests",
            "Ended sequences each second; a request with n: 3 is three.",
            "reqps",
            (Query(_all.rate("wenxin_requests_total", *_EACH), _LEGEND),),
            stacked=True,
        ),
        Panel(
            "Generated tokens",
            "Tokens each second.",
            "short",
            (Query(_all.rate("wenxin_generation_tokens_total", *_EACH), _LEGEND),),
            stacked=True,
        ),
        Panel(
            "Queue",
            "Sequences that wait for a slot. The autoscaler follows this.",
            "short",
            (Query(_all.total("wenxin_queue_depth", *_EACH), _LEGEND),),
        ),
        Panel(
            "Slots in use",
            "Running sequences by slots. Near 100 % the queue is next.",
            "percentunit",
            (
                Query(
                    f"{_all.total('wenxin_requests_running', *_EACH)} / {_all.total('wenxin_slots', *_EACH)}", _LEGEND
                ),
            ),
            limits=((0.8, "yellow"),),
            most=1,
        ),
        Panel(
            "KV cache, fullest pod",
            "Used share of the memory for keys and values.",
            "percentunit",
            (Query(_all.total("wenxin_kv_usage_ratio", *_EACH, how="max"), _LEGEND),),
            limits=((0.95, "red"),),
            most=1,
        ),
        Panel(
            "Ready replicas of each",
            "As the operator counts them: the pods of a group are one replica.",
            "short",
            (Query(_replicas("ready"), _LEGEND),),
            stacked=True,
        ),
    ),
)

_ALERTS = Row(
    "Alerts",
    (
        Panel(
            "Firing",
            "Alerts of this project's rules that fire now.",
            "none",
            (
                Query(
                    f"max by (alertname, severity, namespace, deployment, pod) (ALERTS{{{_FIRING}}})",
                    "Firing",
                ),
            ),
            kind="table",
            width=24,
            height=6,
            quiet="nothing fires",
        ),
    ),
)

BOARD = Dashboard(
    "wenxin-fleet",
    "Wenxin / Fleet",
    "All WenxinDeployments: which one needs somebody.",
    (NAMESPACE,),
    (_NOW, _TABLE, _WAITS, _LOAD, _ALERTS),
)
