"""Messages to a prompt: chat templates expect plain text, and the arguments of tool calls as objects."""

import functools
import json
from typing import Any, Protocol

import msgspec

from wenxin_runtime.errors import InvalidRequest
from wenxin_runtime.server.openai.plan import without_blocking
from wenxin_runtime.server.openai.schemas import ChatMessage
from wenxin_runtime.tokenizer import Tokenizer

_MEDIA = ("image", "audio", "video", "file")


class Conversation(Protocol):
    """The fields of a request that make its prompt; None is the same as absent."""

    @property
    def messages(self) -> list[ChatMessage] | None:
        """The messages."""

    @property
    def add_generation_prompt(self) -> bool | None:
        """Whether the assistant's turn is opened; it is, unless the last message is continued."""

    @property
    def continue_final_message(self) -> bool | None:
        """Whether the model goes on with the last message."""

    @property
    def add_special_tokens(self) -> bool | None:
        """Whether encoding adds special tokens to those of the template."""

    @property
    def chat_template_kwargs(self) -> dict[str, Any] | None:
        """Further variables for the template."""


async def encode(
    conversation: Conversation, tokenizer: Tokenizer, *, tools: list[dict[str, Any]] | None, characters: int
) -> list[int]:
    """Render a conversation and encode it; `characters` is its length, more or less.

    Raises:
        InvalidRequest: a message, or the template refuses them.
    """
    continued = bool(conversation.continue_final_message)
    if continued and conversation.add_generation_prompt:
        raise InvalidRequest("continue_final_message excludes add_generation_prompt", param="continue_final_message")
    wants_prompt = conversation.add_generation_prompt
    work = functools.partial(
        tokenizer.encode_chat,
        for_template(conversation.messages or []),
        tools=tools,
        add_generation_prompt=not continued if wants_prompt is None else wants_prompt,
        continue_final_message=continued,
        add_special_tokens=bool(conversation.add_special_tokens),
        template_kwargs=conversation.chat_template_kwargs,
    )
    return await without_blocking(work, characters)


def for_template(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """Spell messages as chat templates expect them.

    Raises:
        InvalidRequest: a message has no text, or something that is no text; names the field.
    """
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: ChatMessage, where: str) -> dict[str, Any]:
    content = message.content
    if isinstance(content, list):
        content = "\n".join(_text_of(message, i, where) for i in range(len(content)))
    if content is None and message.role != "assistant":
        raise InvalidRequest(f"{where}.content is required", param=f"{where}.content")
    found = {name: value for name, value in msgspec.structs.asdict(message).items() if value is not None}
    found |= {"role": "system" if message.role == "developer" else message.role, "content": content or ""}
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None:
        found |= {"reasoning_content": reasoning, "reasoning": reasoning}  # templates use the one or the other
    if message.tool_calls is not None:
        found["tool_calls"] = [_with_parsed_arguments(call) for call in message.tool_calls]
    return found


def _text_of(message: ChatMessage, number: int, where: str) -> str:
    part = message.content[number] if isinstance(message.content, list) else None
    param = f"{where}.content[{number}]"
    if part is None or part.type != "text":
        kind = "" if part is None else part.type
        reason = "reads text and nothing else" if any(word in kind for word in _MEDIA) else "takes parts of type text"
        raise InvalidRequest(f"{param}: this model {reason}, not {kind[:64]!r}", param=param)
    if part.text is None:
        raise InvalidRequest(f"{param}.text is required", param=f"{param}.text")
    return part.text


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call  # the model wrote it once; the template shows it as it is
    return {**call, "function": {**function, "arguments": arguments}}
