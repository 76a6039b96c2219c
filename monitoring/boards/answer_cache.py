"""The answer cache: what it saves, what a lookup costs, and whether Redis does its part."""

from monitoring.boards.choices import DEPLOYMENT, NAMESPACE, OF_PODS, POD
from monitoring.grafana import Dashboard, Panel, Query, Row

_pods = OF_PODS
_REQUESTS = "wenxin_answer_cache_requests_total"
_LOOKUPS = "wenxin_answer_cache_lookup_seconds"
_HITS = "wenxin_answer_cache_hit_seconds"
_ERRORS = "wenxin_answer_cache_errors_total"
_BREAKER = "wenxin_answer_cache_breaker_open"
_SAVED = 'result=~"hit|shared"'
_LOOKED_UP = 'result!="bypass"'
_HIT = 'result="hit"'
_EACH = ("namespace", "deployment")
_LEGEND = "{{namespace}}/{{deployment}}"

_NOW = Row(
    "Now",
    (
        Panel(
            "Not computed",
            "Share of the requests that could be looked up and were answered from Redis, or along with an equal one.",
            "percentunit",
            (
                Query(
                    f"{_pods.rate(_REQUESTS, where=_SAVED)} / {_pods.rate(_REQUESTS, where=_LOOKED_UP)}",
                    "saved",
                ),
            ),
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            "Answered from Redis",
            "Each second. None of them took a slot.",
            "reqps",
            (Query(_pods.rate(_REQUESTS, where=_HIT), "hits"),),
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            "Lookup, p99",
            "What a miss costs on top. It is given up after 20 ms.",
            "s",
            (Query(_pods.quantile(0.99, _LOOKUPS), "p99"),),
            kind="stat",
            width=6,
            height=4,
            limits=((0.01, "yellow"), (0.02, "red")),
        ),
        Panel(
            "Pods that do not ask Redis",
            "Their breaker is open: Redis failed, and is tried again a moment later. No request waits for that.",
            "none",
            (Query(_pods.total(_BREAKER), "open"),),
            kind="stat",
            width=6,
            height=4,
            limits=((1, "red"),),
        ),
    ),
)

_USE = Row(
    "What it saves",
    (
        Panel(
            "Where answers came from",
            "hit: Redis. shared: an equal request was being computed. miss: computed, and kept. bypass: the request or"
            " the deployment's rules say so.",
            "reqps",
            (Query(_pods.rate(_REQUESTS, "result"), "{{result}}"),),
            stacked=True,
            width=12,
        ),
        Panel(
            "Share of hits",
            "By deployment, of all that was looked up.",
            "percentunit",
            (
                Query(
                    f"{_pods.rate(_REQUESTS, *_EACH, where=_HIT)} / {_pods.rate(_REQUESTS, *_EACH, where=_LOOKED_UP)}",
                    _LEGEND,
                ),
            ),
            most=1,
            width=12,
        ),
        Panel(
            "Work that was left",
            "Sequences that were computed, beside the answers that were not.",
            "reqps",
            (
                Query(_pods.rate("wenxin_requests_total"), "computed"),
                Query(_pods.rate(_REQUESTS, where=_SAVED), "not computed"),
            ),
            stacked=True,
            width=12,
        ),
        Panel(
            "A hit, all in all",
            "From a request's headers to the last byte of an answer that Redis had. A reader that is slow counts too.",
            "s",
            (
                Query(_pods.quantile(0.5, _HITS), "half"),
                Query(_pods.quantile(0.99, _HITS), "99 %"),
            ),
            limits=((0.02, "red"),),
            width=12,
        ),
    ),
)

_REDIS = Row(
    "Redis, as the pods see it",
    (
        Panel(
            "Lookup",
            "Time for a lookup, hits and misses alike.",
            "s",
            (
                Query(_pods.quantile(0.5, _LOOKUPS), "half"),
                Query(_pods.quantile(0.95, _LOOKUPS), "95 %"),
                Query(_pods.quantile(0.99, _LOOKUPS), "99 %"),
            ),
            limits=((0.02, "red"),),
        ),
        Panel(
            "Lookups by time",
            "How many took how long.",
            "s",
            (Query(_pods.rate(f"{_LOOKUPS}_bucket", "le"), "{{le}}"),),
            kind="heatmap",
        ),
        Panel(
            "What Redis did not do",
            "timeout: too slow. connection: not there. refused: full, or not allowed. corrupt: an entry that is not"
            " ours, and counts as a miss.",
            "ops",
            (Query(_pods.rate(_ERRORS, "kind"), "{{kind}}"),),
        ),
        Panel(
            "Breaker by pod",
            "1 while the pod does not ask.",
            "none",
            (Query(_pods.total(_BREAKER, "pod", how="max"), "{{pod}}"),),
            height=6,
            most=1,
        ),
        Panel(
            "Condition CacheReady",
            "As the operator sees it, for each deployment that has a cache.",
            "none",
            (
                Query(
                    "max by (namespace, deployment, reason) (wenxin_operator_deployment_condition"
                    '{condition="CacheReady", namespace=~"$namespace", deployment=~"$deployment"})',
                    "Ready",
                ),
            ),
            kind="table",
            height=6,
            quiet="no deployment has a cache",
        ),
        Panel(
            "Keys of each model",
            "What the keys in Redis begin with. Pods with another beginning share no answers: another model, or another"
            " version of it.",
            "none",
            (Query(f"count by (deployment, space) ({_pods('wenxin_answer_cache_info')})", "Pods"),),
            kind="table",
            height=6,
        ),
    ),
)

BOARD = Dashboard(
    "wenxin-answer-cache",
    "Wenxin / Answer cache",
    "What answers from Redis save, what a lookup costs, and how Redis does.",
    (NAMESPACE, DEPLOYMENT, POD),
    (_NOW, _USE, _REDIS),
)
