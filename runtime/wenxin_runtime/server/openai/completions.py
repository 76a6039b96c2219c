"""POST /v1/completions: prompts to a plan, pieces to completion objects."""

import functools
from typing import cast

from msgspec import UNSET, UnsetType

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.http import encode_json
from wenxin_runtime.server.openai.logprobs import PromptLogprobs, TokenNames, completion_logprobs, prompt_logprobs
from wenxin_runtime.server.openai.parsing import parse
from wenxin_runtime.server.openai.piece import Piece
from wenxin_runtime.server.openai.plan import (
    Plan,
    Prompt,
    check_max_tokens,
    check_prompt,
    plan_of,
    room_for_answer,
    without_blocking,
)
from wenxin_runtime.server.openai.responses import Completion, CompletionChoice, Usage
from wenxin_runtime.server.openai.sampling import check_logprobs
from wenxin_runtime.server.openai.schemas import CompletionRequest
from wenxin_runtime.server.openai.structured import structured_output
from wenxin_runtime.server.served_model import ServedModel
from wenxin_runtime.server.service import Service

# OpenAI's default for this endpoint.
_DEFAULT_MAX_TOKENS = 16


async def plan(body: bytes, service: Service, model: ServedModel) -> Plan:
    """Check a request and work out what to generate.

    Raises:
        RequestError: names the field at fault.
    """
    return await plan_completion(parse(body, CompletionRequest), service, model)


async def plan_completion(
    request: CompletionRequest, service: Service, model: ServedModel, *, prompt_param: str = "prompt"
) -> Plan:
    """Work out what to generate, whatever protocol a request came by.

    Args:
        request: The request.
        service: The server.
        model: Its model.
        prompt_param: What the prompt is called in that protocol.

    Raises:
        RequestError: names the field at fault.
    """
    name = service.check_model_name(request.model)
    _check_neighbours(request)
    top_logprobs = check_logprobs(request.logprobs, service.config.max_logprobs, "logprobs")
    check_logprobs(request.prompt_logprobs, service.config.max_logprobs, "prompt_logprobs")
    prompts = await _prompts(request, service, model, prompt_param)
    checked = plan_of(
        request,
        model,
        prefix="cmpl",
        name=name,
        prompts=prompts,
        max_tokens=_max_tokens(request, prompts, service.max_model_len, prompt_param),
        top_logprobs=top_logprobs,
        structured=await structured_output(request, model.grammars),
        echo=bool(request.echo),
    )
    return checked.picked_from(request.best_of or checked.n)


class CompletionWriter:
    """Spells one completion."""

    def __init__(self, plan: Plan, model: ServedModel) -> None:
        self._plan = plan
        self._names = TokenNames(model.tokenizer, as_ids=plan.tokens_as_ids)

    def whole(self, pieces: list[Piece], usage: Usage) -> bytes:
        """Spell the whole answer."""
        return self._completion([self._choice(piece, opening=True) for piece in pieces], usage)

    def chunks(self, piece: Piece, usage: Usage | None) -> list[bytes]:
        """Spell one piece."""
        returned = piece.scored or (self._plan.return_token_ids and (piece.token_ids or piece.opening))
        if not (piece.finish_reason or returned or any(piece.parts)):
            return []
        return [self._completion([self._choice(piece, opening=piece.opening)], usage)]

    def usage_chunk(self, usage: Usage) -> bytes:
        """Spell the last chunk of a stream that was asked for its usage."""
        return self._completion([], usage)

    def _choice(self, piece: Piece, *, opening: bool) -> CompletionChoice:
        plan = self._plan
        wants_logprobs = plan.top_logprobs is not None and (piece.scored or not plan.stream)
        return CompletionChoice(
            index=piece.index,
            text=piece.text,
            logprobs=completion_logprobs(piece.scored, self._names, plan.top_logprobs or 0) if wants_logprobs else None,
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            token_ids=piece.token_ids if plan.return_token_ids else UNSET,
            prompt_logprobs=self._prompt_logprobs(piece),
            prompt_token_ids=plan.prompt_of(piece.index).ids if plan.return_token_ids and opening else UNSET,
        )

    def _prompt_logprobs(self, piece: Piece) -> PromptLogprobs | UnsetType | None:
        plan = self._plan
        if plan.prompt_logprobs is None:
            return UNSET
        if piece.prompt_logprobs is None:
            return None
        return prompt_logprobs(
            plan.prompt_of(piece.index).ids, piece.prompt_logprobs, self._names, plan.prompt_logprobs
        )

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None) -> bytes:
        plan = self._plan
        shown = usage if usage or plan.include_usage else UNSET
        return encode_json(Completion(plan.id, plan.created, plan.model, choices, shown))


def _check_neighbours(request: CompletionRequest) -> None:
    """Refuse fields whose meaning depends on another field."""
    if request.suffix:
        raise InvalidRequest("suffix is not supported by this server", param="suffix", code="unsupported_parameter")
    n, best_of = request.n or 1, request.best_of
    if best_of is not None and best_of < n:
        raise InvalidRequest(f"best_of is {best_of}; it must not be below n, which is {n}", param="best_of")
    if best_of is not None and best_of > n and request.stream:
        raise InvalidRequest(
            f"best_of {best_of} cannot be streamed with n {n}: the best are known at the end", param="best_of"
        )


def _max_tokens(request: CompletionRequest, prompts: tuple[Prompt, ...], max_model_len: int, prompt_param: str) -> int:
    if request.max_tokens is None:
        return min(_DEFAULT_MAX_TOKENS, room_for_answer(prompts, max_model_len, param=prompt_param))
    check_max_tokens(request.max_tokens, prompts, max_model_len, param="max_tokens")
    return request.max_tokens


async def _prompts(
    request: CompletionRequest, service: Service, model: ServedModel, prompt_param: str
) -> tuple[Prompt, ...]:
    batch = _batch(request.prompt)
    prompts = []
    for i, given in enumerate(batch):
        param = prompt_param if len(batch) == 1 else f"{prompt_param}[{i}]"
        prompt = await _prompt(given, request, model)
        check_prompt(prompt.ids, vocab_size=model.vocab_size, max_model_len=service.max_model_len, param=param)
        prompts.append(prompt)
    return tuple(prompts)


def _batch(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """Bring the four shapes of `prompt` to one: a list of numbers is one prompt, any other list a batch."""
    if isinstance(given, str):
        return [given]
    kinds = set(map(type, given))  # a prompt may have a hundred thousand ids: no look at each one here
    if kinds <= {int}:
        return [cast("list[int]", given)]
    if int in kinds:
        raise InvalidRequest("prompt mixes token ids with whole prompts", param="prompt")
    return cast("list[str | list[int]]", given)


async def _prompt(given: str | list[int], request: CompletionRequest, model: ServedModel) -> Prompt:
    if not isinstance(given, str):
        return Prompt(tuple(given))
    if not given:
        return Prompt(())  # refused as empty, even where encoding would add a BOS token
    specials = request.add_special_tokens is not False
    encode = functools.partial(model.tokenizer.encode, given, add_special_tokens=specials)
    return Prompt(tuple(await without_blocking(encode, len(given))), given)
