"""One HTTP exchange, and what is told of it when it is over: a log line, a count, a span. Never what was said."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.timeline import Timeline


@dataclass(slots=True)
class Exchange:
    """What is known of an exchange while it goes on.

    Attributes:
        id: The request id, the client's own if it brought a decent one.
        path: As it was sent, escapes and all.
        operation: What it generates, in OpenTelemetry's words, where its path alone does not say it.
        trace_context: The client's W3C headers `traceparent` and `tracestate`, where it sent them.
        begun: When it began, of time.monotonic().
        begun_ns: The same moment in Unix nanoseconds.
        status: HTTP status; 0 where the client left before its answer began.
        plan: What is generated, once the body is understood.
        timelines: Its sequences, by number, once they are accepted.
        error: OpenAI's code or type of the error that it was answered with.
        cache: Where the answer comes from (hit, shared, miss, bypass), where there is a cache.
    """

    id: str
    method: str
    path: str
    trace_context: dict[str, str] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    begun_ns: int = field(default_factory=time.time_ns)
    status: int = 0
    plan: Plan | None = None
    timelines: Sequence[Timeline] = ()
    error: str | None = None
    cache: str | None = None
    operation: str | None = None

    def line(self) -> str:
        """Spell it for the access log: fields without spaces, in a fixed order."""
        seconds = time.monotonic() - self.begun
        head = f"request id={self.id} method={self.method} path={self.path} status={self.status} seconds={seconds:.3f}"
        if self.cache is not None:
            head += f" cache={self.cache}"
        return head if self.plan is None or not self.timelines else head + _generated(self.plan, self.timelines)


def _generated(plan: Plan, timelines: Sequence[Timeline]) -> str:
    """Say what the sequences were: with several, the longest wait, the first of the first tokens, and all endings."""
    queue = max(timeline.queue_seconds or 0.0 for timeline in timelines)
    first = min((timeline.seconds_to_first_token or 0.0 for timeline in timelines if timeline.tokens), default=0.0)
    endings = Counter(timeline.ending or "open" for timeline in timelines)
    return (
        f" answer={plan.id} sequences={len(timelines)} prompt_tokens={plan.prompt_tokens}"
        f" cached_tokens={cached_tokens(plan, timelines)} tokens={sum(timeline.tokens for timeline in timelines)}"
        f" queue={queue:.3f} first_token={first:.3f}"
        f" finish={','.join(f'{ending}:{count}' for ending, count in sorted(endings.items()))}"
    )


def cached_tokens(plan: Plan, timelines: Sequence[Timeline]) -> int:
    """Prompt tokens that the prefix cache had; a prompt counts once, however many choices it has."""
    return sum(timeline.cached_tokens for timeline in timelines[:: plan.candidates])
