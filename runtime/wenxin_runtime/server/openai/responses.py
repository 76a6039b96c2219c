"""What an answer looks like on the wire, for both endpoints, whole and in chunks.

`stop_reason`, `token_ids`, `prompt_token_ids` and `prompt_logprobs` are vLLM's additions to OpenAI's objects. Reasoning
is called `reasoning_content` by most servers and clients, and `reasoning` by newer versions of vLLM: it has both names.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from wenxin_runtime.server.openai.logprobs import ChatLogprobs, CompletionLogprobs, PromptLogprobs


class PromptTokensDetails(Struct):
    """How much of the prompt the prefix cache had."""

    cached_tokens: int


class CompletionTokensDetails(Struct):
    """How much of the answer was reasoning."""

    reasoning_tokens: int


class Usage(Struct):
    """OpenAI's token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET


class FunctionCall(Struct):
    """A function and its arguments, as JSON text."""

    name: str
    arguments: str


class ToolCall(Struct, tag_field="type", tag="function"):
    """A tool call of a whole answer."""

    id: str
    function: FunctionCall


class FunctionCallDelta(Struct):
    """What a chunk adds to a call: its name once, its arguments bit by bit."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(Struct):
    """What a chunk adds to the call of number `index`; the first one has its id and type."""

    index: int
    function: FunctionCallDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatAnswer(Struct):
    """The message of a whole answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    """A choice of a whole chat answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Struct, tag_field="object", tag="chat.completion"):
    """A whole chat answer."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType | None = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET


class ChatDelta(Struct):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """A choice of a chat chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, tag_field="object", tag="chat.completion.chunk"):
    """One event of a chat stream."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET


class CompletionChoice(Struct):
    """A choice of a completion, or of a chunk of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType | None = UNSET


class Completion(Struct, tag_field="object", tag="text_completion"):
    """A completion, or one event of a stream of it."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
