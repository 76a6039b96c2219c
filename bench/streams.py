"""What a stream of tokens looked like from its reader: when each token came, and the figures drawn from that."""

import math
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
    def seconds(self) -> float:
        """Seconds from the request to its last token."""
        return self.arrivals[-1] - self.started

    @property
    def gaps(self) -> list[float]:
        """Inter-token latencies in seconds."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Figures:
    """Several streams that ran at the same time. Rates are tokens per second, latencies milliseconds.

    `decode_tokens_per_second` leaves the time up to each first token out: streams over the mean inter-token latency;
    0 where every stream has one token.
    """

    tokens_per_second: float
    decode_tokens_per_second: float
    ttft_ms: float
    itl_ms: float


def figures(streams: Sequence[Stream]) -> Figures:
    """Sum up the streams of one run; the latencies are medians."""
    seconds = max(stream.arrivals[-1] for stream in streams) - min(stream.started for stream in streams)
    gaps = [gap for stream in streams for gap in stream.gaps]
    return Figures(
        tokens_per_second=sum(len(stream.arrivals) for stream in streams) / seconds,
        decode_tokens_per_second=len(streams) / statistics.fmean(gaps) if gaps else 0.0,
        ttft_ms=1e3 * statistics.median(stream.ttft for stream in streams),
        itl_ms=1e3 * statistics.median(gaps) if gaps else 0.0,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that `share` of `values` do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
