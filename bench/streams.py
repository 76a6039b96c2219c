"""What a stream of tokens looked like from its client: when each token came, and the figures drawn from that."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: when it was asked for and when each token arrived, in seconds of one clock."""

    started: float
    arrivals: tuple[float, ...]
    token_ids: tuple[int, ...]

    @property
    def ttft(self) -> float:
        """Seconds from the request to its first token."""
        return self.arrivals[0] - self.started

    @property
    def gaps(self) -> list[float]:
        """Inter-token latencies in seconds."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Figures:
    """One run over several streams. Rates are tokens per second of wall time, latencies are milliseconds."""

    tokens_per_second: float
    decode_tokens_per_second: float
    ttft_p50_ms: float
    ttft_max_ms: float
    itl_p50_ms: float
    itl_p99_ms: float


def figures(streams: Sequence[Stream]) -> Figures:
    """Sum up the streams of one run.

    All of them run at the same time. `decode_tokens_per_second` leaves the time up to each first token out:
    streams over the mean inter-token latency.
    """
    start = min(stream.started for stream in streams)
    end = max(stream.arrivals[-1] for stream in streams)
    tokens = sum(len(stream.arrivals) for stream in streams)
    gaps = sorted(gap for stream in streams for gap in stream.gaps)
    waits = sorted(stream.ttft for stream in streams)
    return Figures(
        tokens_per_second=tokens / (end - start),
        decode_tokens_per_second=len(streams) / statistics.fmean(gaps),
        ttft_p50_ms=1e3 * statistics.median(waits),
        ttft_max_ms=1e3 * waits[-1],
        itl_p50_ms=1e3 * statistics.median(gaps),
        itl_p99_ms=1e3 * gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))],
    )
