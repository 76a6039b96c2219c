"""One deployment: do its users wait, where does the time go, what is asked of it, has it room."""

from monitoring.boards.choices import OF_DEPLOYMENTS, OF_PODS, OF_PROCESSES, ONE_DEPLOYMENT, ONE_NAMESPACE, POD
from monitoring.grafana import Dashboard, Panel, Query, Row

_pods, _whole = OF_PODS, OF_DEPLOYMENTS
_CONDITION = "wenxin_operator_deployment_condition"
_REPLICAS = "wenxin_operator_deployment_replicas"
_SPREAD = ((0.5, "half"), (0.95, "95 %"), (0.99, "99 %"))


def _now(title: str, description: str, unit: str, expr: str, *limits: tuple[float, str]) -> Panel:
    return Panel(title, description, unit, (Query(expr, title),), kind="stat", width=4, height=4, limits=limits)


def _quantiles(title: str, description: str, unit: str, metric: str, *limits: tuple[float, str]) -> Panel:
    queries = tuple(Query(_pods.quantile(share, metric), name) for share, name in _SPREAD)
    return Panel(title, description, unit, queries, limits=limits)


def _replicas(state: str) -> str:
    which = f'state="{state}"'
    return f"max({_whole(_REPLICAS, which)})"


_NOW = Row(
    "Now",
    (
        _now("Ready replicas", "Replicas that answer.", "none", _replicas("ready"), (0, "red"), (1, "green")),
        _now("Requests", "Ended sequences each second.", "reqps", _pods.rate("wenxin_requests_total")),
        _now("Tokens", "Generated each second.", "short", _pods.rate("wenxin_generation_tokens_total")),
        _now(
            "First token, p95",
            "From acceptance to the first token.",
            "s",
            _pods.quantile(0.95, "wenxin_time_to_first_token_seconds"),
            (2.5, "red"),
        ),
        _now(
            "Gap between tokens, p95",
            "Every gap counts, so a stall shows.",
            "s",
            _pods.quantile(0.95, "wenxin_inter_token_latency_seconds"),
            (0.1, "red"),
        ),
        _now(
            "Ended with an error",
            "Share of ended sequences.",
            "percentunit",
            _pods.share("wenxin_requests_total", 'finish_reason="error"'),
            (0.01, "red"),
        ),
    ),
)

_WAITS = Row(
    "How long it takes",
    (
        _quantiles(
            "First token",
            "From acceptance to the first token of a sequence.",
            "s",
            "wenxin_time_to_first_token_seconds",
            (2.5, "red"),
        ),
        _quantiles(
            "Gap between tokens",
            "Between two tokens of a sequence.",
            "s",
            "wenxin_inter_token_latency_seconds",
            (0.1, "red"),
        ),
        _quantiles("Whole answer", "From acceptance to the end of a sequence.", "s", "wenxin_request_duration_seconds"),
        Panel(
            "Where an answer's time goes",
            "Means, one above the other. A high first band means too few slots; a high second one, long prompts or too"
            " little compute; the rest is generating.",
            "s",
            (
                Query(_pods.mean("wenxin_request_queue_seconds"), "waits for a slot"),
                Query(_pods.mean("wenxin_request_prefill_seconds"), "computes the prompt"),
                Query(_pods.mean("wenxin_request_decode_seconds"), "generates"),
            ),
            stacked=True,
        ),
        _quantiles(
            "Mean pace of an answer",
            "Seconds for a token, each answer's own mean.",
            "s",
            "wenxin_time_per_output_token_seconds",
        ),
        Panel(
            "First tokens by time",
            "How many first tokens came how late: two bands mean two kinds of requests.",
            "s",
            (Query(_pods.rate("wenxin_time_to_first_token_seconds_bucket", "le"), "{{le}}"),),
            kind="heatmap",
        ),
    ),
)

_TRAFFIC = Row(
    "What is asked, and what becomes of it",
    (
        Panel(
            "Ended sequences",
            "stop: the model ended; length: max_tokens did; abort: the client left; error: we failed.",
            "reqps",
            (Query(_pods.rate("wenxin_requests_total", "finish_reason"), "{{finish_reason}}"),),
            stacked=True,
        ),
        Panel(
            "Answers by status",
            "499: the client left before its answer began. 503: see Turned away. Words are gRPC's.",
            "reqps",
            (
                Query(_pods.rate("wenxin_http_responses_total", "status") + " > 0", "{{status}}"),
                Query(_pods.rate("wenxin_grpc_responses_total", "code") + " > 0", "{{code}}"),
            ),
            stacked=True,
        ),
        Panel(
            "Turned away",
            "overloaded: the queue was full; loading, draining: the pod should not have been asked; engine_died: it"
            " restarts.",
            "reqps",
            (Query(_pods.rate("wenxin_rejections_total", "reason"), "{{reason}}"),),
        ),
        Panel(
            "Tokens of prompts and answers",
            "Prompt tokens count when they are computed or found in the prefix cache.",
            "short",
            (
                Query(_pods.rate("wenxin_prompt_tokens_total"), "of prompts"),
                Query(_pods.rate("wenxin_generation_tokens_total"), "generated"),
            ),
        ),
        _quantiles(
            "Length of prompts",
            "Tokens of an ended sequence's prompt; powers of two.",
            "short",
            "wenxin_request_prompt_tokens",
        ),
        _quantiles(
            "Length of answers",
            "Generated tokens of an ended sequence; powers of two.",
            "short",
            "wenxin_request_generation_tokens",
        ),
    ),
)

_ROOM = Row(
    "Room",
    (
        Panel(
            "Replicas",
            "Wanted by the spec (or by the autoscaler), there, and ready. The limit is there only with autoscaling.",
            "short",
            (
                Query(f"max by (state) ({_whole(_REPLICAS)})", "{{state}}"),
                Query(f"max({_whole('wenxin_operator_deployment_replicas_max')})", "limit"),
            ),
        ),
        Panel(
            "Queue by pod",
            "Sequences that wait for a slot. One pod above the others: clients hold on to it.",
            "short",
            (Query(_pods.total("wenxin_queue_depth", "pod"), "{{pod}}"),),
            stacked=True,
        ),
        Panel(
            "Slots in use by pod",
            "Running sequences by slots (--max-num-seqs).",
            "percentunit",
            (
                Query(
                    f"{_pods.total('wenxin_requests_running', 'pod')} / {_pods.total('wenxin_slots', 'pod')}",
                    "{{pod}}",
                ),
            ),
            limits=((0.8, "yellow"),),
            most=1,
        ),
        Panel(
            "KV cache by pod",
            "Full with slots free: more memory or shorter contexts. Slots full with room here: more slots.",
            "percentunit",
            (Query(_pods.total("wenxin_kv_usage_ratio", "pod", how="max"), "{{pod}}"),),
            limits=((0.95, "red"),),
            most=1,
        ),
        Panel(
            "Processor by pod",
            "Cores in use by the server process; the engine is another one, and on a GPU the GPU works.",
            "short",
            (Query(OF_PROCESSES.rate("process_cpu_seconds_total", "pod"), "{{pod}}"),),
        ),
        Panel(
            "Time to load by pod",
            "From the engine's start until it was ready; a rollout takes at least this long.",
            "s",
            (Query(_pods.total("wenxin_load_seconds", "pod", how="max"), "{{pod}}"),),
        ),
    ),
)

_STATE = Row(
    "State",
    (
        Panel(
            "Conditions",
            "1: True. The reason is the condition's; `kubectl describe wenxindeployment` has its message.",
            "none",
            (Query(f"max by (condition, reason) ({_whole(_CONDITION)})", "Holds"),),
            kind="table",
            width=10,
        ),
        Panel(
            "Pods",
            "What each serves. Two revisions: a rollout is under way.",
            "none",
            (
                Query(
                    f"max by (pod, revision, model, device, dtype, max_model_len) ({_pods('wenxin_model_info')})",
                    "Up",
                ),
            ),
            kind="table",
            width=14,
        ),
    ),
)

BOARD = Dashboard(
    "wenxin-deployment",
    "Wenxin / Deployment",
    "One WenxinDeployment: its users' waits, its traffic, its room.",
    (ONE_NAMESPACE, ONE_DEPLOYMENT, POD),
    (_NOW, _WAITS, _TRAFFIC, _ROOM, _STATE),
)
