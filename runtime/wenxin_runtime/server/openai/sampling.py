"""A request's knobs to the engine's SamplingParams, with the checkpoint's defaults, as vLLM applies them."""

from typing import TypeVar

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.ipc import SamplingParams, Structured
from wenxin_runtime.server.openai.schemas import GenerationRequest
from wenxin_runtime.server.openai.word_lists import allowed_token_ids, bad_words_ids
from wenxin_runtime.server.served_model import SamplingDefaults
from wenxin_runtime.tokenizer import Tokenizer

_Number = TypeVar("_Number", int, float)


def sampling_params(
    request: GenerationRequest,
    defaults: SamplingDefaults,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    vocab_size: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    structured: Structured | None = None,
) -> SamplingParams:
    """Combine request and defaults.

    Raises:
        InvalidRequest: a token id outside the vocabulary, min_tokens above max_tokens, or an empty word.
    """
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequest(f"min_tokens is {min_tokens}, max_tokens only {max_tokens}", param="min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_first(request.temperature, defaults.temperature, 1.0),
        top_p=_first(request.top_p, defaults.top_p, 1.0),
        top_k=max(_first(request.top_k, defaults.top_k, 0), 0),  # vLLM's -1 switches it off, as 0 does
        min_p=_first(request.min_p, defaults.min_p, 0.0),
        seed=None if request.seed == -1 else request.seed,  # vLLM: -1 is no seed
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        logit_bias=_logit_bias(request.logit_bias or {}, vocab_size),
        stop_token_ids=_stop_token_ids(request.stop_token_ids or [], vocab_size),
        ignore_eos=bool(request.ignore_eos),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        allowed_token_ids=allowed_token_ids(request.allowed_token_ids, vocab_size),
        bad_words_ids=bad_words_ids(request.bad_words or [], tokenizer),
        structured=structured,
    )


def stop_strings(request: GenerationRequest) -> tuple[str, ...]:
    """Return the strings that end the answer."""
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def check_logprobs(count: int | None, limit: int, param: str) -> int | None:
    """Return `count`.

    Raises:
        InvalidRequest: it is above `limit` (--max-logprobs).
    """
    if count is not None and count > limit:
        raise InvalidRequest(f"{param} is {count}, this server gives at most {limit} (--max-logprobs)", param=param)
    return count


def _first(requested: _Number | None, default: _Number | None, neutral: _Number) -> _Number:
    if requested is not None:
        return requested
    return default if default is not None else neutral


def _logit_bias(given: dict[str, float], vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in given.items():
        token_id = int(key) if key.isascii() and key.isdigit() and len(key) < 12 else -1
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(f"logit_bias: {key[:32]!r} is no token id below {vocab_size}", param="logit_bias")
        bias[token_id] = value
    return bias


def _stop_token_ids(given: list[int], vocab_size: int) -> tuple[int, ...]:
    wrong = next((token_id for token_id in given if token_id >= vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(
            f"stop_token_ids: {wrong} is outside the vocabulary of {vocab_size}", param="stop_token_ids"
        )
    return tuple(given)
