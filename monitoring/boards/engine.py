"""Inside the engine: what a step spends, how full it is, what memory and experts do. For who tunes."""

from monitoring.boards.choices import DEPLOYMENT, NAMESPACE, OF_PODS, OF_PROCESSES, POD
from monitoring.grafana import Dashboard, Panel, Query, Row

_pods = OF_PODS

_STEPS = Row(
    "Steps",
    (
        Panel(
            "Time of a step",
            "Mean by phase. On a GPU forward and sample only launch, and wait is the device: wait near 0 under load"
            " means that the host is too slow. On a CPU forward computes.",
            "s",
            (Query(_pods.mean("wenxin_step_seconds", "phase"), "{{phase}}"),),
            stacked=True,
        ),
        Panel(
            "Slowest steps, p99",
            "By phase. A band far above the mean is what makes streams stutter.",
            "s",
            (Query(_pods.quantile(0.99, "wenxin_step_seconds", "phase"), "{{phase}}"),),
        ),
        Panel(
            "Steps",
            "Each second.",
            "ops",
            (Query(_pods.rate("wenxin_step_tokens_count", "pod"), "{{pod}}"),),
        ),
        Panel(
            "Sequences in a step",
            "How many are computed together. Throughput grows with it until compute is full.",
            "short",
            (Query(_pods.rate("wenxin_step_sequences_bucket", "le"), "{{le}}"),),
            kind="heatmap",
        ),
        Panel(
            "Tokens in a step",
            "Near --max-num-batched-tokens: prompts fill the steps, and streams wait for them.",
            "short",
            (Query(_pods.rate("wenxin_step_tokens_bucket", "le"), "{{le}}"),),
            kind="heatmap",
        ),
        Panel(
            "Mean size of a step",
            "Tokens and sequences.",
            "short",
            (
                Query(_pods.mean("wenxin_step_tokens"), "tokens"),
                Query(_pods.mean("wenxin_step_sequences"), "sequences"),
            ),
        ),
    ),
)

_MEMORY = Row(
    "KV cache",
    (
        Panel(
            "KV cache in use",
            "Share of its blocks, by pod.",
            "percentunit",
            (Query(_pods.total("wenxin_kv_usage_ratio", "pod", how="max"), "{{pod}}"),),
            limits=((0.95, "red"),),
            most=1,
        ),
        Panel(
            "Preemptions",
            "Sequences put back for want of blocks; what they had computed is computed again. Should be none.",
            "ops",
            (Query(_pods.rate("wenxin_preemptions_total", "pod"), "{{pod}}"),),
        ),
        Panel(
            "Prefix cache, hits",
            "Share of the prompts' tokens that need not be computed, because a prompt began alike.",
            "percentunit",
            (
                Query(
                    f"{_pods.rate('wenxin_prefix_cache_hits_tokens_total', 'pod')}"
                    f" / {_pods.rate('wenxin_prefix_cache_queries_tokens_total', 'pod')}",
                    "{{pod}}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Waiting for a slot, p95",
            "By the engine's clock.",
            "s",
            (Query(_pods.quantile(0.95, "wenxin_request_queue_seconds", "pod"), "{{pod}}"),),
        ),
        Panel(
            "Computing a prompt, p95",
            "From a slot to the first token, by the engine's clock.",
            "s",
            (Query(_pods.quantile(0.95, "wenxin_request_prefill_seconds", "pod"), "{{pod}}"),),
        ),
        Panel(
            "Sequences",
            "With a slot, waiting for one, and slots.",
            "short",
            (
                Query(_pods.total("wenxin_requests_running"), "running"),
                Query(_pods.total("wenxin_queue_depth"), "waiting"),
                Query(_pods.total("wenxin_slots"), "slots"),
            ),
        ),
    ),
)

_GRAMMARS = Row(
    "Grammars (structured output)",
    (
        Panel(
            "Requests that waited for a grammar",
            "Each second. A grammar that is known is not waited for.",
            "reqps",
            (Query(_pods.rate("wenxin_grammar_compilations_total", "pod"), "{{pod}}"),),
            width=12,
            height=6,
        ),
        Panel(
            "How long",
            "Mean wait until the grammar was compiled. Nobody else waits with it.",
            "s",
            (
                Query(
                    f"{_pods.rate('wenxin_grammar_compile_seconds_total', 'pod')}"
                    f" / {_pods.rate('wenxin_grammar_compilations_total', 'pod')}",
                    "{{pod}}",
                ),
            ),
            width=12,
            height=6,
            quiet="no grammar was compiled",
        ),
    ),
)

_EXPERTS = Row(
    "Experts (mixture models on several GPUs)",
    (
        Panel(
            "Imbalance",
            "A step's experts take so many times longer than if all ranks were as busy; 1 is even, 0 not measured. Well"
            " above 1: --num-redundant-experts.",
            "none",
            (Query(_pods.total("wenxin_expert_load_imbalance", "pod", how="max"), "{{pod}}"),),
            limits=((1.5, "yellow"),),
        ),
        Panel(
            "Rows by rank",
            "What each rank's experts were asked, each second.",
            "short",
            (Query(_pods.rate("wenxin_expert_rows_total", "pod", "rank"), "{{pod}} rank {{rank}}"),),
            stacked=True,
        ),
        Panel(
            "Layers placed anew",
            "Layers whose copies of busy experts moved, each second.",
            "ops",
            (Query(_pods.rate("wenxin_expert_rebalances_total", "pod"), "{{pod}}"),),
        ),
    ),
)

_PROCESS = Row(
    "Server process",
    (
        Panel(
            "Processor",
            "Cores in use by the process that speaks HTTP. Near 1 it is what limits; the engine is another process.",
            "short",
            (Query(OF_PROCESSES.rate("process_cpu_seconds_total", "pod"), "{{pod}}"),),
            limits=((0.9, "red"),),
        ),
        Panel(
            "Memory",
            "Resident, of the process that speaks HTTP.",
            "bytes",
            (Query(OF_PROCESSES("process_resident_memory_bytes"), "{{pod}}"),),
        ),
        Panel(
            "Open files",
            "Connections above all, as a share of what the process may have open.",
            "percentunit",
            (Query(f"{OF_PROCESSES('process_open_fds')} / {OF_PROCESSES('process_max_fds')}", "{{pod}}"),),
            limits=((0.8, "red"),),
            most=1,
        ),
        Panel(
            "Versions",
            "Of the pods.",
            "none",
            (Query(f"max by (pod, version, python) ({_pods('wenxin_build_info')})", "Up"),),
            kind="table",
            width=12,
            height=6,
        ),
        Panel(
            "Up for",
            "How long each pod's process has run; a fall to zero is a restart.",
            "s",
            (Query(f"time() - {OF_PROCESSES('process_start_time_seconds')}", "{{pod}}"),),
            width=12,
            height=6,
        ),
    ),
)

BOARD = Dashboard(
    "wenxin-engine",
    "Wenxin / Engine",
    "Inside the engine: steps, KV cache, experts. For who tunes it.",
    (NAMESPACE, DEPLOYMENT, POD),
    (_STEPS, _MEMORY, _GRAMMARS, _EXPERTS, _PROCESS),
)
