"""What is to be generated: the common ground of chat and completions."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.ipc import SamplingParams, Structured, Submit
from wenxin_runtime.server.openai.parts import AnswerFormat
from wenxin_runtime.server.openai.sampling import sampling_params, stop_strings
from wenxin_runtime.server.openai.schemas import GenerationRequest
from wenxin_runtime.server.served_model import ServedModel

# Shorter texts are tokenised faster than a thread is woken.
_LONG_TEXT_CHARACTERS = 4096

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and the text as the client wrote it where it wrote one."""

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked request: `n` choices for each prompt, numbered prompt by prompt.

    They are picked from `candidates`, by their mean logprob, where `best_of` asks for more than `n`. A lower `priority`
    comes sooner.

    `id` also names the sequences to the engine. `top_logprobs` is the number of alternatives per token, None for no
    logprobs at all; `prompt_logprobs` the same for the prompt's. `answer_format` says what an answer may hold besides
    its content, None for nothing.
    """

    id: str
    created: int
    model: str
    prompts: tuple[Prompt, ...]
    n: int
    sampling: SamplingParams
    stop: tuple[str, ...]
    include_stop: bool
    skip_special_tokens: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    tokens_as_ids: bool
    top_logprobs: int | None
    prompt_logprobs: int | None = None
    echo: bool = False
    cache_salt: str = ""
    priority: int = 0
    best_of: int = 1
    answer_format: AnswerFormat | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; a prompt counts once, however many choices it has."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    def prompt_of(self, index: int) -> Prompt:
        """Return the prompt of choice `index`."""
        return self.prompts[index // self.n]

    def picked_from(self, best_of: int) -> "Plan":
        """Return the plan whose choices are the best of so many candidates, which takes their logprobs."""
        if best_of == self.n:
            return self
        sampling = msgspec.structs.replace(self.sampling, logprobs=self.sampling.logprobs or 0)
        return replace(self, best_of=best_of, sampling=sampling)

    @property
    def candidates(self) -> int:
        """Sequences to generate for each prompt."""
        return max(self.n, self.best_of)

    def of_candidates(self) -> "Plan":
        """Return the plan that has all candidates for choices."""
        return self if self.candidates == self.n else replace(self, n=self.candidates)

    @property
    def sequence_ids(self) -> list[str]:
        """What the engine calls the candidates, by their number."""
        return [f"{self.id}-{number}" for number in range(len(self.prompts) * self.candidates)]

    def submits(self) -> list[Submit]:
        """List the prompts, each with all its candidates, which compute it once."""
        width, ids = self.candidates, self.sequence_ids
        rows = [ids[first : first + width] for first in range(0, len(ids), width)]
        return [
            Submit(first, prompt.ids, self.sampling, self.cache_salt, self.priority, tuple(others))
            for prompt, (first, *others) in zip(self.prompts, rows, strict=True)
        ]


async def without_blocking(work: Callable[[], _Result], characters: int) -> _Result:
    """Tokenise, in a thread where the text is so long that other requests would have to wait."""
    return work() if characters < _LONG_TEXT_CHARACTERS else await asyncio.to_thread(work)


def check_prompt(ids: Sequence[int], *, vocab_size: int, max_model_len: int, param: str) -> None:
    """Refuse a prompt that the model cannot take; `param` is the field to blame.

    Raises:
        InvalidRequest: empty, too long, or with an id outside the vocabulary.
    """
    if not ids:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    if len(ids) > max_model_len:
        raise InvalidRequest(
            f"the prompt has {len(ids)} tokens, this model takes at most {max_model_len} tokens of prompt and answer",
            param=param,
            code="context_length_exceeded",
        )
    if not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise InvalidRequest(f"{param}: token id {wrong} is outside the vocabulary of {vocab_size}", param=param)


def room_for_answer(prompts: Sequence[Prompt], max_model_len: int, *, param: str) -> int:
    """Return the most tokens that every prompt leaves room for.

    Raises:
        InvalidRequest: there is none.
    """
    room = max_model_len - max(len(prompt.ids) for prompt in prompts)
    if room < 1:
        raise InvalidRequest(
            f"the prompt fills all {max_model_len} tokens of this model; there is no room for an answer",
            param=param,
            code="context_length_exceeded",
        )
    return room


def check_max_tokens(max_tokens: int, prompts: Sequence[Prompt], max_model_len: int, *, param: str) -> None:
    """Refuse an answer that cannot fit behind the longest prompt.

    Raises:
        InvalidRequest: says how much room there is.
    """
    room = max_model_len - max(len(prompt.ids) for prompt in prompts)
    if max_tokens > room:
        raise InvalidRequest(
            f"{param} is {max_tokens}, but the prompt leaves room for {room} of {max_model_len} tokens",
            param=param,
            code="context_length_exceeded",
        )


def plan_of(
    request: GenerationRequest,
    model: ServedModel,
    *,
    prefix: str,
    name: str,
    prompts: tuple[Prompt, ...],
    max_tokens: int,
    top_logprobs: int | None,
    structured: Structured | None,
    echo: bool = False,
) -> Plan:
    """Put together what both endpoints take from a request in the same way; `prefix` begins the answer's id.

    Raises:
        InvalidRequest: names the field at fault.
    """
    options = request.stream_options
    if request.prompt_logprobs is not None and request.stream:
        raise InvalidRequest("prompt_logprobs cannot be streamed", param="prompt_logprobs")
    if options is not None and not request.stream:
        raise InvalidRequest("stream_options is only allowed when stream is true", param="stream_options")
    return Plan(
        id=f"{prefix}-{secrets.token_hex(16)}",
        created=int(time.time()),
        model=name,
        prompts=prompts,
        n=request.n or 1,
        sampling=sampling_params(
            request,
            model.defaults,
            model.tokenizer,
            max_tokens=max_tokens,
            vocab_size=model.vocab_size,
            logprobs=top_logprobs,
            prompt_logprobs=_most(request.prompt_logprobs, top_logprobs if echo else None),
            structured=structured,
        ),
        stop=stop_strings(request),
        include_stop=bool(request.include_stop_str_in_output),
        skip_special_tokens=request.skip_special_tokens is not False,
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.continuous_usage_stats),
        return_token_ids=bool(request.return_token_ids),
        tokens_as_ids=bool(request.return_tokens_as_token_ids),
        top_logprobs=top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        echo=echo,
        cache_salt=request.cache_salt or "",
        priority=request.priority or 0,
    )


def _most(*counts: int | None) -> int | None:
    return max((count for count in counts if count is not None), default=None)
