"""Metrics and logs of the server process. Neither ever holds a prompt or an answer."""

import logging
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wenxin_runtime import __version__
from wenxin_runtime.distribution import Histogram
from wenxin_runtime.ipc import EngineStats, FinishReason, Ready
from wenxin_runtime.server.answers.how import How
from wenxin_runtime.timeline import Timeline

ENDINGS = (*get_args(FinishReason), "abort")
CACHE_ERRORS = ("timeout", "connection", "refused", "corrupt")
REJECTIONS = ("overloaded", "loading", "draining", "engine_died")
# A phase is whatever the engine reports in seconds, so a new one shows up here by itself.
PHASES = tuple(name.removesuffix("_seconds") for name in EngineStats.__struct_fields__ if name.endswith("_seconds"))
CLIENT_LEFT = 499  # before its answer began; nginx calls it so
STATUSES = (200, 400, 404, 405, 409, 413, CLIENT_LEFT, 500, 501, 503)
# Names of gRPC's status codes, those that generating methods end with.
GRPC_CODES = ("OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "INTERNAL")

# A request may wait for a millisecond or be served for ten minutes; a factor of about two between bounds is what a
# quantile can be off by. The dense part lies where people set their goals, 50 ms to 10 s.
_SECONDS_OF_A_REQUEST = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75),
    *(1, 1.5, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 320, 640),
)
# Reading speed is 0.1 to 0.2 s a token; below it, goals are set in steps of 5 to 10 ms. Above 0.5 s something stalls.
_SECONDS_OF_A_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5),
)
# Scheduling takes tens of microseconds, a forward pass of a large prompt on a CPU seconds.
_SECONDS_OF_A_STEP = (
    *(0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02),
    *(0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5),
)
# A hit should take less than 2 ms; a lookup is given up after 20.
_SECONDS_OF_A_HIT = (0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0008, 0.001, 0.0015, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_SECONDS_OF_A_LOOKUP = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
# Powers of two, because limits are: the share of requests beyond 32 k tokens, or of steps with a full batch, is exact.
_TOKENS = tuple(2**i for i in range(18))
_SEQUENCES = tuple(2**i for i in range(11))


class EngineView(Protocol):
    """What the server knows about the engine at this moment."""

    @property
    def waiting(self) -> int:
        """Sequences that have not started or were preempted."""

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""

    @property
    def kv_usage(self) -> float:
        """Used share of the KV cache, 0 to 1."""

    @property
    def stats(self) -> EngineStats:
        """The engine's last report."""


class Metrics:
    """Every `wenxin_*` series of one server, present from the start with value zero."""

    def __init__(self, *, slots: int) -> None:
        """Register everything; `slots` is --max-num-seqs."""
        # The `_created` twins would double the series, and nobody reads them.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "wenxin_requests", "Ended sequences (one per choice)", ["finish_reason"], registry=registry
        )
        self.rejections = Counter("wenxin_rejections", "Requests that were not accepted", ["reason"], registry=registry)
        self.responses = Counter(
            "wenxin_http_responses", "Answers by HTTP status, probes left out", ["status"], registry=registry
        )
        self.grpc_responses = Counter(
            "wenxin_grpc_responses", "Requests over gRPC by status code", ["code"], registry=registry
        )
        self.answers = AnswerMetrics(registry)
        self._times = _Times(registry)
        self._sizes = _Sizes(registry)
        self._step = Histogram(
            "wenxin_step_seconds",
            "Share of an engine step",
            _SECONDS_OF_A_STEP,
            registry=registry,
            label="phase",
            values=PHASES,
        )
        self._load_seconds = Gauge("wenxin_load_seconds", "Time the engine took to become ready", registry=registry)
        Gauge("wenxin_slots", "Sequences that run at the same time (--max-num-seqs)", registry=registry).set(slots)
        build_info(registry)
        self._model_info = Info("wenxin_model", "What is served, once it is loaded", registry=registry)
        for ending in ENDINGS:
            self.requests.labels(ending)
        for reason in REJECTIONS:
            self.rejections.labels(reason)
        for status in STATUSES:
            self.responses.labels(str(status))
        for code in GRPC_CODES:
            self.grpc_responses.labels(code)

    def watch(self, engine: EngineView) -> None:
        """Read the engine's gauges and counters from `engine` whenever metrics are asked for."""
        self.registry.register(_EngineCollector(engine))

    def step(self, stats: EngineStats) -> None:
        """Record one engine step: how long each phase took, and how much was computed together."""
        if stats.batch_tokens == 0:
            return  # the report of an engine that falls idle is no step
        for phase in PHASES:
            self._step[phase].observe(getattr(stats, phase + "_seconds"))
        self._sizes.batch_tokens.observe(stats.batch_tokens)
        self._sizes.batch_sequences.observe(stats.batch_sequences)

    def first_token(self, timeline: Timeline) -> None:
        """Record that a sequence got its first token."""
        times = self._times
        if timeline.seconds_to_first_token is not None:
            times.to_first_token.observe(timeline.seconds_to_first_token)
        if timeline.queue_seconds is not None:
            times.queue.observe(timeline.queue_seconds)
        if timeline.prefill_seconds is not None:
            times.prefill.observe(timeline.prefill_seconds)

    def gaps(self, gaps: Iterable[tuple[float, int]]) -> None:
        """Record times between two tokens of a sequence, each with the number of tokens that waited so long."""
        for seconds, tokens in gaps:
            self._times.between_tokens.observe(seconds, tokens)

    def ended(self, timeline: Timeline) -> None:
        """Record the end of a sequence."""
        if timeline.ended is None or timeline.ending is None:
            raise ValueError("the sequence has not ended")
        self.requests.labels(timeline.ending).inc()
        self._times.request.observe(timeline.ended - timeline.accepted)
        if timeline.decode_seconds is not None:
            self._times.decode.observe(timeline.decode_seconds)
        if timeline.seconds_between_tokens is not None:
            self._times.per_output_token.observe(timeline.seconds_between_tokens)
        self._sizes.prompt.observe(timeline.prompt_tokens)
        self._sizes.generation.observe(timeline.tokens)

    def engine_ready(self, ready: Ready, model: str) -> None:
        """Record what is served and how long it took to load."""
        self._load_seconds.set(ready.load_seconds)
        facts = {"device": ready.device, "dtype": ready.dtype, "max_model_len": str(ready.max_model_len)}
        self._model_info.info({"model": model, "parameters": str(ready.parameters), **facts})

    def exposition(self) -> bytes:
        """Return the Prometheus text format."""
        return prometheus_client.generate_latest(self.registry)


def build_info(registry: CollectorRegistry) -> None:
    """Register what every process of ours says of itself."""
    prometheus_client.ProcessCollector(registry=registry)
    info = Info("wenxin_build", "Version of this runtime", registry=registry)
    info.info({"version": __version__, "python": platform.python_version()})


class AnswerMetrics:
    """What the answer cache did; see `answers.store.Watcher`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "wenxin_answer_cache_requests", "Requests by where their answer came from", ["result"], registry=registry
        )
        self._errors = Counter(
            "wenxin_answer_cache_errors", "What Redis did not do as asked", ["kind"], registry=registry
        )
        self._breaker = Gauge(
            "wenxin_answer_cache_breaker_open", "1 while Redis is not asked, because it failed", registry=registry
        )
        self._info = Info(
            "wenxin_answer_cache", "What this model's keys in Redis begin with, once it is known", registry=registry
        )
        self._lookups = Histogram(
            "wenxin_answer_cache_lookup_seconds", "Time for a lookup in Redis", _SECONDS_OF_A_LOOKUP, registry=registry
        )
        self._hits = Histogram(
            "wenxin_answer_cache_hit_seconds",
            "Time of a request whose answer Redis had, from its headers to its last byte",
            _SECONDS_OF_A_HIT,
            registry=registry,
        )
        self._info.info({"space": ""})
        self._results = {how: self._requests.labels(how) for how in How}
        for kind in CACHE_ERRORS:
            self._errors.labels(kind)

    def begin(self, space: str) -> None:
        """Say which keys are this model's; see `answers.cache.AnswerCache`."""
        self._info.info({"space": space})

    def count(self, how: How) -> None:
        """Count a request by where its answer came from."""
        self._results[how].inc()

    def hit(self, seconds: float) -> None:
        """Record how long a request took whose answer was there."""
        self._hits.observe(seconds)

    def lookup(self, seconds: float) -> None:
        """See `answers.store.Watcher`."""
        self._lookups.observe(seconds)

    def error(self, kind: str) -> None:
        """See `answers.store.Watcher`."""
        self._errors.labels(kind).inc()

    def breaker(self, *, is_open: bool) -> None:
        """See `answers.store.Watcher`."""
        self._breaker.set(is_open)


class _Times:
    """How long things took, in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, documentation: str, bounds: tuple[float, ...] = _SECONDS_OF_A_REQUEST) -> Histogram:
            return Histogram(f"wenxin_{name}_seconds", documentation, bounds, registry=registry)

        self.to_first_token = histogram("time_to_first_token", "From acceptance to the first token of a sequence")
        self.between_tokens = histogram("inter_token_latency", "Between two tokens of a sequence", _SECONDS_OF_A_TOKEN)
        self.per_output_token = histogram(
            "time_per_output_token", "Mean time between the tokens of an ended sequence", _SECONDS_OF_A_TOKEN
        )
        self.request = histogram("request_duration", "From acceptance to the end of a sequence")
        self.queue = histogram("request_queue", "Wait of a sequence for its first slot, by the engine's clock")
        self.prefill = histogram("request_prefill", "From its first slot to its first token, by the engine's clock")
        self.decode = histogram("request_decode", "From its first token to its last")


class _Sizes:
    """How large things were."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, documentation: str, bounds: tuple[float, ...] = _TOKENS) -> Histogram:
            return Histogram(f"wenxin_{name}", documentation, bounds, registry=registry)

        self.prompt = histogram("request_prompt_tokens", "Prompt tokens of an ended sequence")
        self.generation = histogram("request_generation_tokens", "Generated tokens of an ended sequence")
        self.batch_tokens = histogram("step_tokens", "Tokens computed in one engine step")
        self.batch_sequences = histogram("step_sequences", "Sequences in one engine step", _SEQUENCES)


class _EngineCollector(Collector):
    def __init__(self, engine: EngineView) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, stats = self._engine, self._engine.stats
        gauges = {
            "wenxin_queue_depth": ("Sequences that wait for a slot", engine.waiting),
            "wenxin_requests_running": ("Sequences that hold a slot", engine.running),
            "wenxin_kv_usage_ratio": ("Used share of the KV cache", engine.kv_usage),
            "wenxin_expert_load_imbalance": (
                "What the busiest rank's experts compute over the mean of ranks, 1 where even; 0 where not measured",
                stats.experts.imbalance,
            ),
        }
        counters = {
            "wenxin_prompt_tokens": ("Prompt tokens computed or found in the prefix cache", stats.prompt_tokens_total),
            "wenxin_generation_tokens": ("Generated tokens", stats.generation_tokens_total),
            "wenxin_preemptions": ("Sequences put back for want of KV blocks", stats.preemptions_total),
            "wenxin_prefix_cache_queries_tokens": (
                "Tokens looked up in the prefix cache",
                stats.prefix_cache_queries_total,
            ),
            "wenxin_prefix_cache_hits_tokens": ("Tokens found there", stats.prefix_cache_hits_total),
            "wenxin_grammar_compilations": ("Requests that waited for a grammar to be compiled", stats.grammars_total),
            "wenxin_grammar_compile_seconds": ("Time that they waited for it", stats.grammar_seconds_total),
            "wenxin_expert_rebalances": (
                "Layers whose copies of busy experts were placed anew",
                stats.experts.rebalances_total,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
        rows = CounterMetricFamily("wenxin_expert_rows", "Rows that a rank's experts were asked", labels=["rank"])
        for rank, count in enumerate(stats.experts.rows_by_rank or (0,)):
            rows.add_metric([str(rank)], count)
        yield rows


def set_up_logging(level: str) -> None:
    """Log to stderr, one line per event, times in UTC."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # our own lines say what it would say
