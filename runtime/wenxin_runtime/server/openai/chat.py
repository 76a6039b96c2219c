"""POST /v1/chat/completions: messages to a plan, pieces to chat objects."""

import functools
import json
from typing import Any

import msgspec
from msgspec import UNSET

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.http import encode_json
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
from wenxin_runtime.server.openai.responses import (
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    TokenNames,
    Usage,
    chat_logprobs,
)
from wenxin_runtime.server.openai.sampling import check_logprobs
from wenxin_runtime.server.openai.schemas import ChatMessage, ChatRequest
from wenxin_runtime.server.openai.structured import structured_output
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
    prompt = Prompt(await _prompt_ids(request, model))
    check_prompt(prompt.ids, vocab_size=model.vocab_size, max_model_len=service.max_model_len, param="messages")
    return plan_of(
        request,
        model,
        prefix="chatcmpl",
        name=name,
        prompts=(prompt,),
        max_tokens=_max_tokens(request, prompt, service.max_model_len),
        top_logprobs=top_logprobs,
        structured=await structured_output(request, model.grammars),
    )


class ChatWriter:
    """Spells one chat answer."""

    def __init__(self, plan: Plan, model: ServedModel) -> None:
        self._plan = plan
        self._names = TokenNames(model.tokenizer, as_ids=plan.tokens_as_ids)

    def whole(self, pieces: list[Piece], usage: Usage) -> bytes:
        """Spell the whole answer."""
        plan = self._plan
        choices = [
            ChatChoice(
                index=piece.index,
                message=ChatAnswer("assistant", piece.text),
                logprobs=None if plan.top_logprobs is None else chat_logprobs(piece.scored, self._names),
                finish_reason=piece.finish_reason,
                stop_reason=piece.stop_reason,
                token_ids=piece.token_ids if plan.return_token_ids else UNSET,
            )
            for piece in pieces
        ]
        prompt_ids = plan.prompts[0].ids if plan.return_token_ids else UNSET
        return encode_json(
            ChatCompletion(plan.id, plan.created, plan.model, choices, usage, prompt_token_ids=prompt_ids)
        )

    def chunks(self, piece: Piece, usage: Usage | None) -> list[bytes]:
        """Spell one piece: the role first, where the choice begins."""
        found = [self._opening(piece.index, usage)] if piece.opening else []
        text = piece.text
        if text or piece.finish_reason or piece.scored or (self._plan.return_token_ids and piece.token_ids):
            found.append(self._chunk(self._choice(piece, text), usage))
        return found

    def usage_chunk(self, usage: Usage) -> bytes:
        """Spell the last chunk of a stream that was asked for its usage."""
        plan = self._plan
        return encode_json(ChatChunk(plan.id, plan.created, plan.model, [], usage))

    def _opening(self, index: int, usage: Usage | None) -> bytes:
        choice = ChatChunkChoice(index, ChatDelta(role="assistant", content=""))
        return self._chunk(choice, usage, prompt_ids=self._plan.return_token_ids)

    def _choice(self, piece: Piece, text: str) -> ChatChunkChoice:
        plan = self._plan
        return ChatChunkChoice(
            index=piece.index,
            delta=ChatDelta(content=text) if text or not piece.finish_reason else ChatDelta(),
            logprobs=chat_logprobs(piece.scored, self._names) if piece.scored else None,
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason if piece.finish_reason else UNSET,
            token_ids=piece.token_ids if plan.return_token_ids else UNSET,
        )

    def _chunk(self, choice: ChatChunkChoice, usage: Usage | None, *, prompt_ids: bool = False) -> bytes:
        plan = self._plan
        return encode_json(
            ChatChunk(
                plan.id,
                plan.created,
                plan.model,
                [choice],
                # OpenAI: with include_usage, every chunk has the key, with null where it does not know.
                usage=usage if usage or plan.include_usage else UNSET,
                prompt_token_ids=plan.prompts[0].ids if prompt_ids else UNSET,
            )
        )


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


async def _prompt_ids(request: ChatRequest, model: ServedModel) -> tuple[int, ...]:
    messages = [_for_template(message, i) for i, message in enumerate(request.messages)]
    continued = bool(request.continue_final_message)
    if continued and request.add_generation_prompt:
        raise InvalidRequest("continue_final_message excludes add_generation_prompt", param="continue_final_message")
    wants_prompt = request.add_generation_prompt
    encode = functools.partial(
        model.tokenizer.encode_chat,
        messages,
        add_generation_prompt=not continued if wants_prompt is None else wants_prompt,
        continue_final_message=continued,
        add_special_tokens=bool(request.add_special_tokens),
        template_kwargs=request.chat_template_kwargs,
    )
    return tuple(await without_blocking(encode, sum(len(message["content"]) for message in messages)))


def _for_template(message: ChatMessage, number: int) -> dict[str, Any]:
    """Spell a message as chat templates expect it: plain text, arguments of tool calls as objects."""
    content = message.content
    if isinstance(content, list):
        content = "\n".join(_text_of(message, number, i) for i in range(len(content)))
    if content is None and message.role != "assistant":
        raise InvalidRequest(f"messages[{number}].content is required", param=f"messages[{number}].content")
    found = {name: value for name, value in msgspec.structs.asdict(message).items() if value is not None}
    found |= {"role": "system" if message.role == "developer" else message.role, "content": content or ""}
    if message.tool_calls is not None:
        found["tool_calls"] = [_with_parsed_arguments(call) for call in message.tool_calls]
    return found


def _text_of(message: ChatMessage, number: int, part_number: int) -> str:
    part = message.content[part_number] if isinstance(message.content, list) else None
    param = f"messages[{number}].content[{part_number}]"
    if part is None or part.type != "text":
        raise InvalidRequest(f"{param}: this model takes only parts of type text", param=param)
    if part.text is None:
        raise InvalidRequest(f"{param}.text is required", param=f"{param}.text")
    return part.text


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call  # the model wrote it once; the template shows it as it is
    return {**call, "function": {**function, "arguments": arguments}}
