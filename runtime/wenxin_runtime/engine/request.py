"""One sequence and where it stands. No status flag: what it needs next follows from a few counts."""

import time
from dataclasses import dataclass, field

from wenxin_runtime.engine.constraint import Constraint
from wenxin_runtime.engine.kv_blocks import BlockTable
from wenxin_runtime.engine.seen import Seen
from wenxin_runtime.ipc import FinishReason, SamplingParams, TokenLogprobs


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt, and what its choices share.

    Attributes:
        ids: Its tokens.
        running: Its choices that hold a slot, all of one group. One computes the prompt, the others take over its
            blocks.
        cached_tokens: Tokens found in the prefix cache when its first choice was admitted.
        answered: Whether a choice has its first token.
        scored: Tokens whose log probabilities are known or under way, where the request wants them.
        logprobs: Those that are known, in order; None for the first token, which nothing precedes.
    """

    ids: tuple[int, ...]
    running: list["Request"] = field(default_factory=list)
    cached_tokens: int | None = None
    answered: bool = False
    scored: int = 1
    logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])


@dataclass(slots=True)
class Times:
    """When a sequence was submitted, got its first slot and its first token, on the clock `time.perf_counter`."""

    submitted: float = field(default_factory=time.perf_counter)
    admitted: float | None = None
    answered: float | None = None

    @property
    def queue(self) -> float:
        """Seconds until the first slot."""
        return (self.admitted or self.submitted) - self.submitted

    @property
    def prefill(self) -> float:
        """Seconds from there to the first token."""
        return (self.answered or self.submitted) - (self.admitted or self.submitted)

    def decode(self) -> float:
        """Seconds from there until now."""
        now = time.perf_counter()
        return now - (self.answered or now)


@dataclass(slots=True, eq=False)
class Request:
    """One choice: a prompt being continued.

    Attributes:
        seed: Seed of this sequence's draws; together with the position it decides each of them, so neither the
            batch nor a preemption changes an answer.
        stop_ids: Tokens that end the answer.
        max_len: Most tokens that the sequence may have, prompt included.
        order: Priority, then arrival: the lower, the sooner.
        constraint: What the answer is bound to.
        seen: Counts of the tokens, where penalties go by them.
        token_ids: Known tokens: the prompt, then what has been generated.
        in_flight: Tokens that are sampled, or will be by a step that is launched, and that the host does not know yet:
            0 between steps in lockstep, at most 2 within an asynchronous step.
        computed: How many tokens have their keys and values in the cache, or will once what is launched has run. One
            more token is sampled each time `computed` catches up with `length`; being preempted is falling back to 0.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    seed: int
    stop_ids: tuple[int, ...]
    max_len: int
    table: BlockTable
    order: tuple[int, int] = (0, 0)
    constraint: Constraint | None = None
    seen: Seen | None = None
    times: Times = field(default_factory=Times)
    token_ids: list[int] = field(default_factory=list)
    in_flight: int = 0
    computed: int = 0

    def __post_init__(self) -> None:
        self.token_ids.extend(self.prompt.ids)

    @property
    def group(self) -> int:
        """Data-parallel group whose cache holds its blocks, while it runs."""
        return self.table.group

    @property
    def generated(self) -> int:
        """Number of tokens generated so far."""
        return len(self.token_ids) - len(self.prompt.ids)

    @property
    def length(self) -> int:
        """Number of tokens, those in flight included."""
        return len(self.token_ids) + self.in_flight

    @property
    def uncomputed(self) -> int:
        """Number of tokens that a step has still to compute: 1 while the answer is being written."""
        if self.in_flight and self.length >= self.max_len:
            return 0  # the token in flight is the last one, whatever it is
        return self.length - self.computed

    @property
    def reusable(self) -> bool:
        """Whether cached blocks serve: not while the logits of prompt tokens are wanted."""
        return self.sampling.prompt_logprobs is None or self.prompt.scored == len(self.prompt.ids)

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...] | None:
        """Those of all prompt tokens, if the request wants them and the prompt is computed."""
        return tuple(self.prompt.logprobs) if self.sampling.prompt_logprobs is not None else None

    def append(self, token_id: int) -> None:
        """Take note of the next token."""
        self.token_ids.append(token_id)
        if self.seen is not None:
            self.seen.add(token_id)
        if self.constraint is not None:
            self.constraint.advance(token_id)

    def finish_reason(self) -> FinishReason | None:
        """Say how the answer has ended with its last token, if it has."""
        if self.generated and self.token_ids[-1] in self.stop_ids and self.generated > self.sampling.min_tokens:
            return "stop"
        if self.generated and self.constraint is not None and self.constraint.finished:
            return "stop"
        if len(self.token_ids) >= self.max_len:
            return "length"
        return None
