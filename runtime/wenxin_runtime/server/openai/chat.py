"""POST /v1/chat/completions: messages to a plan."""

import dataclasses

import msgspec

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.ipc import Structured
from wenxin_runtime.server.openai.chat_format import ChatFormat, stage_after
from wenxin_runtime.server.openai.messages import encode
from wenxin_runtime.server.openai.parsing import parse
from wenxin_runtime.server.openai.parts import AnswerFormat, CallFormat
from wenxin_runtime.server.openai.plan import (
    Plan,
    Prompt,
    check_max_tokens,
    check_prompt,
    plan_of,
    room_for_answer,
)
from wenxin_runtime.server.openai.reasoning import Stage
from wenxin_runtime.server.openai.sampling import check_logprobs
from wenxin_runtime.server.openai.schemas import ChatRequest
from wenxin_runtime.server.openai.structured import checked, structured_output, tool_call_grammar
from wenxin_runtime.server.openai.tools import ToolUse, tool_use
from wenxin_runtime.server.served_model import ServedModel
from wenxin_runtime.server.service import Service


async def plan(body: bytes, service: Service, model: ServedModel) -> Plan:
    """Check a request and work out what to generate.

    Raises:
        RequestError: names the field at fault.
    """
    request = parse(body, ChatRequest)
    name = service.check_model_name(request.model)
    top_logprobs = _top_logprobs(request, service.config.max_logprobs)
    check_logprobs(request.prompt_logprobs, service.config.max_logprobs, "prompt_logprobs")
    budget = _thinking_budget(request, model.chat_format)
    use = tool_use(request, model.chat_format)
    shown = None if use is None else use.shown
    prompt = Prompt(tuple(await encode(request, model.tokenizer, tools=shown, characters=len(body))))
    check_prompt(prompt.ids, vocab_size=model.vocab_size, max_model_len=service.max_model_len, param="messages")
    planned = plan_of(
        request,
        model,
        prefix="chatcmpl",
        name=name,
        prompts=(prompt,),
        max_tokens=_max_tokens(request, prompt, service.max_model_len),
        top_logprobs=top_logprobs,
        structured=await _structured(request, use, model),
    )
    answer_format = _answer_format(request, use, prompt, model)
    return _thinking(dataclasses.replace(planned, answer_format=answer_format), budget, model.chat_format)


def _thinking(planned: Plan, budget: int | None, chat_format: ChatFormat) -> Plan:
    """Tell the engine how the thought ends that the prompt has opened, if it has."""
    if planned.answer_format is None or planned.answer_format.stage is not Stage.OPENED:
        return planned
    sampling = msgspec.structs.replace(
        planned.sampling, think_end_ids=chat_format.think_end_ids, thinking_budget=budget
    )
    return dataclasses.replace(planned, sampling=sampling)


def _answer_format(
    request: ChatRequest, use: ToolUse | None, prompt: Prompt, model: ServedModel
) -> AnswerFormat | None:
    known = model.chat_format
    if not known.thinks and use is None:
        return None
    continued = bool(request.continue_final_message)
    return AnswerFormat(
        stage=stage_after(prompt.ids, model.tokenizer, continued=continued) if known.thinks else None,
        calls=None if use is None else CallFormat(eager=bool(request.stream), only_one=not use.parallel),
        include_reasoning=request.include_reasoning is not False,
        shown_ids=known.special_ids_of(thinking=known.thinks, calls=use is not None),
    )


async def _structured(request: ChatRequest, use: ToolUse | None, model: ServedModel) -> Structured | None:
    """Return what the answer must look like: a call where one is forced, else what the request's own fields say."""
    asked = await structured_output(request, model.grammars)
    if use is None or use.forced is None:
        return asked
    if asked is not None:
        raise InvalidRequest("tool_choice forces a call, which no other format can describe too", param="tool_choice")
    grammar = tool_call_grammar(use.forced, parallel=use.parallel, special_ids=model.chat_format.special_ids)
    return await checked(grammar, model.grammars, param="tools")


def _thinking_budget(request: ChatRequest, chat_format: ChatFormat) -> int | None:
    """Return the most tokens of reasoning; None, or -1, is no bound."""
    given = {
        "thinking_token_budget": request.thinking_token_budget,
        "reasoning_max_tokens": request.reasoning_max_tokens,
    }
    given = {name: value for name, value in given.items() if value not in (None, -1)}
    for name in given:
        if not chat_format.thinks:
            raise InvalidRequest(
                f"{name}: this model does not think, as far as this server knows (--reasoning-parser)", param=name
            )
    if len(set(given.values())) > 1:
        raise InvalidRequest(
            "reasoning_max_tokens is another name of thinking_token_budget: send one", param="reasoning_max_tokens"
        )
    return next(iter(given.values()), None)


def _top_logprobs(request: ChatRequest, limit: int) -> int | None:
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    count = check_logprobs(request.top_logprobs, limit, "top_logprobs")
    return (count or 0) if request.logprobs else None


def _max_tokens(request: ChatRequest, prompt: Prompt, max_model_len: int) -> int:
    param = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    asked: int | None = getattr(request, param)
    if asked is None:
        return room_for_answer([prompt], max_model_len, param="messages")
    if asked == 0:
        raise InvalidRequest(f"{param} must be at least 1", param=param)
    check_max_tokens(asked, [prompt], max_model_len, param=param)
    return asked
