"""What the server process and the engine process say to each other: msgspec structs over two ZeroMQ PUSH/PULL sockets.

The server sends `ToEngine`, the engine `FromEngine`; both are tagged unions in MessagePack. Imports no torch.
"""

import signal
from typing import Literal

import msgspec


class Structured(msgspec.Struct, frozen=True):
    """What an answer must look like, as an llguidance grammar: Lark text, or the JSON of a list of grammars."""

    grammar: str


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose the next token; names and meaning as in vLLM and the OpenAI API.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 and `min_p` 0 switch the filter off. `seed` makes the draw
    repeatable whatever else runs in the batch. `logprobs` is the number of alternatives per generated token
    (None: no logprobs at all, 0: only the chosen token's); `prompt_logprobs` the same for the prompt's tokens.

    `bad_words_ids` are sequences that the answer never completes. `think_end_ids` is what ends the thinking that the
    answer starts with (none: it does not think); until then `structured` does not count, and after `thinking_budget`
    tokens they are written for it.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    structured: Structured | None = None
    think_end_ids: tuple[int, ...] = ()
    thinking_budget: int | None = None


class Submit(msgspec.Struct, frozen=True, tag=True):
    """One prompt to continue. The server has checked lengths and ranges, and that queue places are free.

    `siblings` are the ids of further choices of the same prompt, which is computed once: each is a sequence of its
    own, with its own deltas and ending. Where a seed is given, the choice of number i (`request_id` is 0) adds i to
    it. A lower `priority` comes sooner, as in vLLM; among equals the order of arrival counts.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    cache_salt: str = ""
    priority: int = 0
    siblings: tuple[str, ...] = ()

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The ids of all choices, by number."""
        return (self.request_id, *self.siblings)


class Abort(msgspec.Struct, frozen=True, tag=True):
    """The client went away or a stop string was found: free the blocks, send nothing more for these ids."""

    request_ids: tuple[str, ...]


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the engine process; the server has no open request left, or has given up on them."""


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Say Pong: the server wants to know whether the engine's loop still turns."""


class Profile(msgspec.Struct, frozen=True, tag=True):
    """Watch the next steps with torch's profiler, for `seconds` or `steps` of them, whichever ends first.

    The engine writes a Chrome trace to the file `path`, and then says Profiled.
    """

    seconds: float
    steps: int
    path: str


class Inspect(msgspec.Struct, frozen=True, tag=True):
    """Say Inspected: somebody wants to know where every sequence stands."""


ToEngine = Submit | Abort | Shutdown | Ping | Profile | Inspect

STACKS_SIGNAL = signal.SIGUSR1
"""Makes the engine write the stacks of all its threads to the log; the server sends it before it kills."""

FinishReason = Literal["stop", "length", "error"]


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities (natural log, of the unmodified distribution) at one position.

    `rank` of the chosen token counts from 1; `top` lists the most likely tokens, best first, as (token id, logprob).
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step added to one request. The last delta of a request, and only that one, has a `finish_reason`.

    `stop_token_id` is the EOS or stop token that ended it, and is the last of `token_ids`. `prompt_logprobs` comes
    once, with the first delta: one entry per prompt token, None for the first. `error` explains finish_reason "error".

    `queue_seconds` (from submission to the first slot) and `prefill_seconds` (from there to the first token) come with
    the first delta of a sequence that was computed, `decode_seconds` (from there on) with the last.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    error: str | None = None
    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None


class ExpertStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How evenly whole experts that are spread over ranks are asked.

    `imbalance` is what the busiest rank computes over the mean of the ranks, the mean over the layers, in the last
    measurement; 0 before the first. `rebalances_total` counts layers whose copies have changed, `rows_by_rank` the rows
    that each rank's experts were asked, all layers together, up to the last measurement.
    """

    imbalance: float = 0.0
    rebalances_total: int = 0
    rows_by_rank: tuple[int, ...] = ()


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's state after a step. Times are seconds of this step; counters are totals since the start.

    `forward_seconds` and `sample_seconds` compute on a CPU, and only launch on a GPU. `wait_seconds` are for the device
    to be done with what was launched before, and for taking in its tokens.
    """

    waiting: int = 0
    running: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    batch_tokens: int = 0
    batch_sequences: int = 0
    schedule_seconds: float = 0.0
    forward_seconds: float = 0.0
    wait_seconds: float = 0.0
    sample_seconds: float = 0.0
    preemptions_total: int = 0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    prefix_cache_queries_total: int = 0
    prefix_cache_hits_total: int = 0
    grammars_total: int = 0
    grammar_seconds_total: float = 0.0
    experts: ExpertStats = ExpertStats()


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Progress of the weights, in bytes."""

    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The engine has loaded the weights, sized the KV cache and generated one token; requests may come."""

    max_model_len: int
    kv_blocks: int
    block_size: int
    device: str
    dtype: str
    parameters: int
    load_seconds: float


class Alive(msgspec.Struct, frozen=True, tag=True):
    """Said every `every_seconds`, whatever the engine does, where it shares the model with other processes.

    `standing` says of each other rank (world rank, orders carried out); `leaving` names those whose machine has been
    told to stop.
    """

    every_seconds: float
    standing: tuple[tuple[int, int], ...] = ()
    leaving: tuple[int, ...] = ()


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """What one step produced. Sent after every step, and once more with no delta when the engine falls idle."""

    deltas: tuple[Delta, ...]
    stats: EngineStats


class Fatal(msgspec.Struct, frozen=True, tag=True):
    """The engine ends: `reason` is CamelCase, `message` is for a person and says what to do."""

    reason: str
    message: str
    exit_code: int = 1


class Pong(msgspec.Struct, frozen=True, tag=True):
    """The answer to Ping, between two steps. `busy` where sequences wait for the next one."""

    busy: bool


class Profiled(msgspec.Struct, frozen=True, tag=True):
    """The answer to the Profile of this `path`: the slowest operators, as a text table, or why there is none."""

    path: str
    steps: int = 0
    table: str = ""
    error: str | None = None


class SequenceState(msgspec.Struct, frozen=True, kw_only=True):
    """Where one sequence stands. `id` is made up by the server, so it says nothing about who asked for what.

    `computed` of its prompt's and generated tokens have their keys and values in the cache; `in_flight` more tokens
    are sampled by steps that are launched. `group` is the data-parallel group that has it in its cache, if one has.
    """

    id: str
    running: bool
    group: int | None
    prompt_tokens: int
    generated_tokens: int
    computed: int
    in_flight: int
    max_len: int
    blocks: int


class Inspected(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The answer to Inspect, between two steps. Sequences stand in the scheduler's order, running ones first.

    `compiling` prompts wait for their grammar and are not among them yet.
    """

    kv_blocks_owned: int
    kv_blocks_free: int
    compiling: int
    sequences: tuple[SequenceState, ...]


FromEngine = Loading | Ready | Alive | Outputs | Fatal | Pong | Profiled | Inspected

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
