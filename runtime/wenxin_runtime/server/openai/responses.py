"""What an answer looks like on the wire, for both endpoints, whole and in chunks.

`stop_reason`, `token_ids` and `prompt_token_ids` are vLLM's additions to OpenAI's objects.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec import field as json_field

from wenxin_runtime.ipc import TokenLogprobs
from wenxin_runtime.server.openai.piece import ScoredToken
from wenxin_runtime.tokenizer import Tokenizer

# JSON has no minus infinity; OpenAI and vLLM spell it so.
_LOWEST_LOGPROB = -9999.0


class PromptTokensDetails(Struct):
    """How much of the prompt the prefix cache had."""

    cached_tokens: int


class Usage(Struct):
    """OpenAI's token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TokenEntry(Struct):
    """One alternative in chat's logprobs; `bytes` are exact where `token` has to show U+FFFD."""

    token: str
    logprob: float
    bytes_: list[int] = json_field(name="bytes")


class ScoredEntry(TokenEntry):
    """One token in chat's logprobs."""

    top_logprobs: list[TokenEntry]


class ChatLogprobs(Struct):
    """Chat's logprobs of one choice."""

    content: list[ScoredEntry]
    refusal: None = None


class ChatAnswer(Struct):
    """The message of a whole answer."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


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
    prompt_token_ids: Sequence[int] | UnsetType = UNSET


class ChatDelta(Struct):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


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


class CompletionLogprobs(Struct):
    """Completions' logprobs of one choice, or of a chunk of it."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(Struct):
    """A choice of a completion, or of a chunk of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET


class Completion(Struct, tag_field="object", tag="text_completion"):
    """A completion, or one event of a stream of it."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class TokenNames:
    """How tokens are called in logprobs: by their text, or as `token_id:7` on demand."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool = False) -> None:
        self._pieces = tokenizer.pieces
        self._as_ids = as_ids

    def raw(self, token_id: int) -> bytes:
        """Return the token's bytes."""
        return self._pieces[token_id]

    def text(self, token_id: int) -> str:
        """Return the token's text, U+FFFD for broken characters."""
        return f"token_id:{token_id}" if self._as_ids else self.raw(token_id).decode("utf-8", "replace")

    def unique(self, token_id: int) -> str:
        r"""Return a text that no other token has: a broken character is spelled out, as in OpenAI's `bytes:\xe4`."""
        try:
            return f"token_id:{token_id}" if self._as_ids else self.raw(token_id).decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{value:02x}" for value in self.raw(token_id))


def chat_logprobs(scored: Sequence[ScoredToken], names: TokenNames) -> ChatLogprobs:
    """Spell logprobs for chat."""
    return ChatLogprobs([_scored_entry(token_id, logprobs, names) for token_id, logprobs, _ in scored if logprobs])


def completion_logprobs(scored: Sequence[ScoredToken], names: TokenNames, top: int) -> CompletionLogprobs:
    """Spell logprobs for completions: the `top` best per token, and the chosen token where it is not among them."""
    return CompletionLogprobs(
        text_offset=[token.offset for token in scored],
        token_logprobs=[_finite(token.logprobs.logprob) if token.logprobs else None for token in scored],
        tokens=[names.unique(token.token_id) for token in scored],
        top_logprobs=[_alternatives(token, names, top) if token.logprobs else None for token in scored],
    )


def _scored_entry(token_id: int, logprobs: TokenLogprobs, names: TokenNames) -> ScoredEntry:
    return ScoredEntry(
        names.text(token_id),
        _finite(logprobs.logprob),
        list(names.raw(token_id)),
        [TokenEntry(names.text(other), _finite(value), list(names.raw(other))) for other, value in logprobs.top],
    )


def _alternatives(token: ScoredToken, names: TokenNames, top: int) -> dict[str, float]:
    logprobs = token.logprobs or TokenLogprobs(0.0, 1)
    found = {names.unique(other): _finite(value) for other, value in logprobs.top[:top]}
    return found | {names.unique(token.token_id): _finite(logprobs.logprob)}


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST_LOGPROB)
