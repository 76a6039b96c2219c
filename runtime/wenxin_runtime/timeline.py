"""When things happened to one sequence: the one source of its metrics, its words in the log, and its spans."""

from dataclasses import dataclass

from wenxin_runtime.ipc import Delta


@dataclass(slots=True)
class Timeline:
    """A sequence as the server sees it. Points in time are of time.monotonic(), durations in seconds.

    Attributes:
        prompt_tokens: Length of its prompt.
        accepted: When it was handed to the engine.
        first_token: When its first tokens arrived here.
        last_token: When its newest tokens arrived here.
        tokens: Generated tokens so far.
        cached_tokens: Prompt tokens found in the prefix cache.
        queue_seconds: By the engine's clock, until it first held a slot.
        prefill_seconds: By the engine's clock, from then to its first token.
        decode_seconds: From then to its last token; by the engine's clock where the engine ended it.
        ended: When it ended.
        ending: How: a finish reason of the engine, or "abort".
    """

    prompt_tokens: int
    accepted: float
    first_token: float | None = None
    last_token: float | None = None
    tokens: int = 0
    cached_tokens: int = 0
    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    ended: float | None = None
    ending: str | None = None

    @property
    def seconds_to_first_token(self) -> float | None:
        """From acceptance to the first token; None without one."""
        return None if self.first_token is None else self.first_token - self.accepted

    @property
    def seconds_between_tokens(self) -> float | None:
        """The mean time between two tokens; None where there were fewer than two."""
        if self.first_token is None or self.last_token is None or self.tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.tokens - 1)

    def add(self, delta: Delta, now: float) -> float | None:
        """Take note of a delta; return the time since the tokens before, where it brings tokens and is not the first.

        Called for every sequence of every step, so it does nothing but assign.
        """
        if delta.queue_seconds is not None:
            self.queue_seconds, self.prefill_seconds = delta.queue_seconds, delta.prefill_seconds
            self.cached_tokens = delta.cached_tokens
        if delta.finish_reason is not None:
            self.decode_seconds = delta.decode_seconds
        if not delta.token_ids:
            return None
        self.tokens += len(delta.token_ids)
        before, self.last_token = self.last_token, now
        if before is not None:
            return now - before
        self.first_token = now
        return None

    def end(self, ending: str, now: float) -> None:
        """Take note of the end."""
        self.ended, self.ending = now, ending
        if self.decode_seconds is None and self.first_token is not None and self.last_token is not None:
            self.decode_seconds = self.last_token - self.first_token
