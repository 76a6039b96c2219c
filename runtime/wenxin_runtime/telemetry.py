"""Metrics and logs of the server process. Neither ever holds a prompt or an answer."""

import logging
import platform
import sys
import time
from collections.abc import Iterator
from typing import Protocol, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wenxin_runtime import __version__
from wenxin_runtime.ipc import EngineStats, FinishReason, Ready

ENDINGS = (*get_args(FinishReason), "abort")
REJECTIONS = ("overloaded", "loading", "draining", "engine_died")
PHASES = ("schedule", "forward", "sample")

_SECONDS_OF_A_REQUEST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_SECONDS_OF_A_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 5)
_SECONDS_OF_A_STEP = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5)


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
        prometheus_client.ProcessCollector(registry=registry)
        self.requests = Counter(
            "wenxin_requests", "Ended sequences (one per choice)", ["finish_reason"], registry=registry
        )
        self.rejections = Counter("wenxin_rejections", "Requests that were not accepted", ["reason"], registry=registry)
        self.time_to_first_token = Histogram(
            "wenxin_time_to_first_token_seconds",
            "From acceptance to the first token of a sequence",
            buckets=_SECONDS_OF_A_REQUEST,
            registry=registry,
        )
        self.inter_token_latency = Histogram(
            "wenxin_inter_token_latency_seconds",
            "Between two tokens of a sequence",
            buckets=_SECONDS_OF_A_TOKEN,
            registry=registry,
        )
        self.request_duration = Histogram(
            "wenxin_request_duration_seconds",
            "From acceptance to the end of a sequence",
            buckets=_SECONDS_OF_A_REQUEST,
            registry=registry,
        )
        self._step = Histogram(
            "wenxin_step_seconds",
            "Share of an engine step",
            ["phase"],
            buckets=_SECONDS_OF_A_STEP,
            registry=registry,
        )
        self._load_seconds = Gauge("wenxin_load_seconds", "Time the engine took to become ready", registry=registry)
        Gauge("wenxin_slots", "Sequences that run at the same time (--max-num-seqs)", registry=registry).set(slots)
        self._build_info = Info("wenxin_build", "Version of this runtime", registry=registry)
        self._build_info.info({"version": __version__, "python": platform.python_version()})
        self._model_info = Info("wenxin_model", "What is served, once it is loaded", registry=registry)
        self._step_of = {phase: self._step.labels(phase) for phase in PHASES}
        for ending in ENDINGS:
            self.requests.labels(ending)
        for reason in REJECTIONS:
            self.rejections.labels(reason)

    def watch(self, engine: EngineView) -> None:
        """Read the engine's gauges and counters from `engine` whenever metrics are asked for."""
        self.registry.register(_EngineCollector(engine))

    def observe_step(self, stats: EngineStats) -> None:
        """Record how long each phase of a step took."""
        if stats.batch_tokens == 0:
            return  # the report of an engine that falls idle is no step
        self._step_of["schedule"].observe(stats.schedule_seconds)
        self._step_of["forward"].observe(stats.forward_seconds)
        self._step_of["sample"].observe(stats.sample_seconds)

    def engine_ready(self, ready: Ready, model: str) -> None:
        """Record what is served and how long it took to load."""
        self._load_seconds.set(ready.load_seconds)
        facts = {"device": ready.device, "dtype": ready.dtype, "max_model_len": str(ready.max_model_len)}
        self._model_info.info({"model": model, "parameters": str(ready.parameters), **facts})

    def exposition(self) -> bytes:
        """Return the Prometheus text format."""
        return prometheus_client.generate_latest(self.registry)


class _EngineCollector(Collector):
    def __init__(self, engine: EngineView) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, stats = self._engine, self._engine.stats
        gauges = {
            "wenxin_queue_depth": ("Sequences that wait for a slot", engine.waiting),
            "wenxin_requests_running": ("Sequences that hold a slot", engine.running),
            "wenxin_kv_usage_ratio": ("Used share of the KV cache", engine.kv_usage),
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
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)


def set_up_logging(level: str) -> None:
    """Log to stderr, one line per event, times in UTC."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # our own lines say what it would say
