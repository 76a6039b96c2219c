"""One sequence and where it stands. No status flag: what it needs next follows from two counts."""

from dataclasses import dataclass, field

from wenxin_runtime.engine.kv_blocks import BlockTable
from wenxin_runtime.ipc import FinishReason, SamplingParams, TokenLogprobs


@dataclass(slots=True, eq=False)
class Request:
    """A prompt being continued.

    Attributes:
        token_ids: Known tokens: the prompt, then what has been generated.
        computed: How many of them have their keys and values in the cache. One more token is sampled each time
            `computed` catches up with `token_ids`; being preempted is `computed` falling back to 0.
        seed: Seed of this sequence's draws; together with the position it decides each of them, so neither the
            batch nor a preemption changes an answer.
        stop_ids: Tokens that end the answer.
        max_len: Most tokens that the sequence may have, prompt included.
        cached_tokens: Prompt tokens found in the prefix cache on first admission.
        prompt_logprobs: Of the prompt's tokens computed so far, if the request wants them.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    stop_ids: tuple[int, ...]
    max_len: int
    table: BlockTable
    token_ids: list[int] = field(default_factory=list)
    computed: int = 0
    cached_tokens: int | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_ids.extend(self.prompt_ids)

    @property
    def generated(self) -> int:
        """Number of tokens generated so far."""
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def uncomputed(self) -> int:
        """Number of known tokens that a step has still to compute: 1 while the answer is being written."""
        return len(self.token_ids) - self.computed

    @property
    def reusable(self) -> bool:
        """Whether cached prefix blocks serve: not where the logits of every prompt token are wanted."""
        return self.sampling.prompt_logprobs is None

    def finish_reason(self) -> FinishReason | None:
        """Say how the answer has ended with its last token, if it has."""
        if self.generated and self.token_ids[-1] in self.stop_ids and self.generated > self.sampling.min_tokens:
            return "stop"
        if len(self.token_ids) >= self.max_len:
            return "length"
        return None
