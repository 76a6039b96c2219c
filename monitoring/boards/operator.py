"""The operator itself: who leads, is its view fresh, do passes succeed, what does it cost the API server."""

from monitoring.expressions import Scope
from monitoring.grafana import Dashboard, Panel, Query, Row

_own = Scope('job="wenxin-operator"')
_PASSES = "wenxin_operator_reconcile_total"
_SECONDS = "wenxin_operator_reconcile_seconds"
_REQUESTS = "wenxin_operator_api_requests_total"
_WRITES = "wenxin_operator_writes_total"


def _now(title: str, description: str, unit: str, expr: str, *limits: tuple[float, str]) -> Panel:
    return Panel(title, description, unit, (Query(expr, title),), kind="stat", width=4, height=4, limits=limits)


def _fetched(state: str) -> str:
    return f'max by (namespace, model) (wenxin_operator_model_download_bytes{{state="{state}"}})'


_NOW = Row(
    "Now",
    (
        _now(
            "Copies",
            "Copies that Prometheus reaches.",
            "none",
            'sum(up{job="wenxin-operator"})',
            (0, "red"),
            (1, "green"),
        ),
        _now(
            "Leaders",
            "Copies that hold the Lease: one.",
            "none",
            _own.total("wenxin_operator_leader"),
            (0, "red"),
            (1, "green"),
            (2, "red"),
        ),
        _now(
            "Since the last full list",
            "Of the oldest kind. Every resyncInterval all are listed.",
            "s",
            _own.total("wenxin_operator_watch_age_seconds", how="max"),
            (300, "yellow"),
            (600, "red"),
        ),
        _now(
            "Waiting for a pass",
            "Resources; a burst is gone within seconds.",
            "none",
            _own.total("wenxin_operator_queue_length", how="max"),
            (20, "yellow"),
        ),
        _now("Pass, p99", "Duration of a pass.", "s", _own.quantile(0.99, _SECONDS), (1, "yellow"), (5, "red")),
        _now(
            "Passes that fail",
            "Share of all passes.",
            "percentunit",
            _own.share(_PASSES, 'outcome="failed"'),
            (0.05, "yellow"),
            (0.5, "red"),
        ),
    ),
)

_WORK = Row(
    "Passes",
    (
        Panel(
            "Passes by outcome",
            "At rest all are unchanged: a resync looks, and writes nothing.",
            "ops",
            (Query(_own.rate(_PASSES, "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Duration of a pass",
            "By kind of resource.",
            "s",
            (
                Query(_own.quantile(0.5, _SECONDS, "kind"), "{{kind}} half"),
                Query(_own.quantile(0.99, _SECONDS, "kind"), "{{kind}} 99 %"),
            ),
        ),
        Panel(
            "Queue",
            "Resources that wait for a pass, and those in one. It empties within seconds of a burst.",
            "short",
            (
                Query(_own.total("wenxin_operator_queue_length"), "waiting"),
                Query(_own.total("wenxin_operator_queue_running"), "in a pass"),
            ),
        ),
    ),
)

_API = Row(
    "API server",
    (
        Panel(
            "Requests by answer",
            "Code 0 is no answer at all.",
            "reqps",
            (Query(_own.rate(_REQUESTS, "code"), "{{code}}"),),
            stacked=True,
        ),
        Panel(
            "Requests by method",
            "At rest: GET of each kind at a resync, WATCH that ends and begins anew, PUT of the Lease.",
            "reqps",
            (Query(_own.rate(_REQUESTS, "method"), "{{method}}"),),
            stacked=True,
        ),
        Panel(
            "Writes",
            "Changes of objects; at rest none.",
            "ops",
            (Query(_own.rate(_WRITES, "method", "resource") + " > 0", "{{method}} {{resource}}"),),
            stacked=True,
            quiet="nothing was written within the window",
        ),
        Panel(
            "Who leads",
            "1 for the copy that holds the Lease. A step is a change of hands.",
            "none",
            (Query(_own("wenxin_operator_leader"), "{{pod}}"),),
            most=1,
        ),
        Panel(
            "Age of what it sees",
            "Since the oldest kind was last listed in full; a saw with teeth of resyncInterval.",
            "s",
            (Query(_own("wenxin_operator_watch_age_seconds"), "{{pod}}"),),
            limits=((300, "red"),),
        ),
        Panel(
            "Memory",
            "Some 5 KiB for each object that it knows.",
            "bytes",
            (Query(_own("process_resident_memory_bytes"), "{{pod}}"),),
        ),
    ),
)

_SCALING = Row(
    "Metrics for autoscalers (metrics.provider: embedded)",
    (
        Panel(
            "Pods that are asked",
            "How busy they are. A pod that does not answer is missing for the autoscaler, not idle.",
            "ops",
            (Query(_own.rate("wenxin_operator_load_polls_total", "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Pods that autoscalers hear of",
            "By copy of the operator: each asks for itself, and any may be asked.",
            "short",
            (Query(_own("wenxin_operator_load_samples"), "{{pod}}"),),
        ),
        Panel(
            "Answers to autoscalers",
            "custom.metrics.k8s.io by HTTP status. 404: no sample yet; 403: who asks may not.",
            "reqps",
            (Query(_own.rate("wenxin_operator_metrics_api_requests_total", "code"), "{{code}}"),),
            stacked=True,
        ),
    ),
)

_RESOURCES = Row(
    "Resources",
    (
        Panel(
            "Ready and not",
            "WenxinDeployments and WenxinModels by their condition Ready.",
            "short",
            (Query('max by (kind, status) (wenxin_operator_resources{condition="Ready"})', "{{kind}} {{status}}"),),
            stacked=True,
        ),
        Panel(
            "Conditions that do not hold",
            "Deployments; a Progressing that does not hold with RolloutComplete is as it should be, and left out.",
            "none",
            (
                Query(
                    "max by (namespace, deployment, condition, reason)"
                    ' (wenxin_operator_deployment_condition{reason!="RolloutComplete"}) == 0',
                    "Holds",
                ),
            ),
            kind="table",
            width=8,
            link=("wenxin-deployment", ("namespace", "deployment")),
            quiet="all conditions hold",
        ),
        Panel(
            "Models",
            "Conditions of WenxinModels. 1: True.",
            "none",
            (
                Query(
                    "max by (namespace, model, condition, reason) (wenxin_operator_model_condition)",
                    "Holds",
                ),
            ),
            kind="table",
            width=8,
        ),
        Panel(
            "Downloads",
            "Share of the weights that is on the claim. Flat below 100 %: the download stands still.",
            "percentunit",
            (Query(f"{_fetched('done')} / {_fetched('total')}", "{{namespace}}/{{model}}"),),
            width=24,
            quiet="no model is fetched",
        ),
        Panel(
            "Processor",
            "Cores in use.",
            "short",
            (Query(_own.rate("process_cpu_seconds_total", "pod"), "{{pod}}"),),
            width=12,
            height=6,
        ),
        Panel(
            "Versions",
            "Of the copies.",
            "none",
            (Query("max by (pod, version, python) (wenxin_operator_build_info)", "Up"),),
            kind="table",
            width=12,
            height=6,
        ),
    ),
)

BOARD = Dashboard(
    "wenxin-operator",
    "Wenxin / Operator",
    "The operator itself: who leads, whether its view is fresh, what passes do and cost.",
    (),
    (_NOW, _WORK, _API, _SCALING, _RESOURCES),
)
