"""What a request may hold: OpenAI's fields, and vLLM's extensions under vLLM's names.

msgspec and not pydantic: one error with a JSON path instead of one per union branch, strict types, and a prompt of
100,000 token ids is checked in a millisecond.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Raw, Struct

TokenId: TypeAlias = Annotated[int, Meta(ge=0)]
_Count: TypeAlias = Annotated[int, Meta(ge=0)]
_Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]

MAX_STOP_STRINGS = 16
MAX_BAD_WORDS = 1000
NOT_GIVEN = Raw()
_StopString: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]


class StreamOptions(Struct, frozen=True):
    """OpenAI's `stream_options`; `continuous_usage_stats` is vLLM's: usage in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchemaFormat(Struct, frozen=True):
    """OpenAI's `response_format.json_schema`. Held to whatever `strict` says."""

    name: str | None = None
    description: str | None = None
    schema: Raw = NOT_GIVEN
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Struct, frozen=True):
    """vLLM's `structured_outputs`: one of the first six; the others are about JSON. A schema may come as a string."""

    json: Raw = NOT_GIVEN
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """What both endpoints take. None is the same as absent, everywhere."""

    model: str | None = None
    max_tokens: _Count | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    stop: _StopString | Annotated[list[_StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: _Count | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    prompt_logprobs: _Count | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    cache_salt: str | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: Annotated[list[str], Meta(max_length=MAX_BAD_WORDS)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Raw = NOT_GIVEN
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    # OpenAI's bookkeeping, without a meaning here.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/completions. A prompt is text or token ids; a list of either is a batch."""

    prompt: str | list[str | TokenId | list[TokenId]]
    echo: bool | None = None
    logprobs: _Count | None = None
    best_of: Annotated[int, Meta(ge=1)] | None = None
    suffix: str | None = None


class Function(Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, frozen=True):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class FunctionName(Struct, frozen=True):
    """One of the functions, by its name."""

    name: str


class NamedTool(Struct, frozen=True):
    """The tool that has to be called."""

    type: Literal["function"]
    function: FunctionName


class ContentPart(Struct, frozen=True):
    """A part of a message; only `text` can be served."""

    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True):
    """A message of the conversation, as the chat template will see it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # what newer versions of vLLM call it


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: _Count | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: Annotated[int, Meta(ge=-1)] | None = None
    reasoning_max_tokens: Annotated[int, Meta(ge=-1)] | None = None  # FastDeploy's name for the same


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    """POST /tokenize, as in vLLM: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    """POST /detokenize, as in vLLM."""

    model: str | None = None
    tokens: list[TokenId]


# Fields that would change the answer if this server knew them, so it must not ignore them; with the values that ask
# for nothing. Null, "", [] and {} never ask for anything.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "chat_template": (),
    "documents": (),
    "function_call": ("none", "auto"),
    "functions": (),
    "logits_processors": (),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
