"""How logprobs look on the wire: in chat, in completions, and of a prompt."""

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct
from msgspec import field as json_field

from wenxin_runtime.ipc import TokenLogprobs
from wenxin_runtime.server.openai.piece import ScoredToken
from wenxin_runtime.tokenizer import Tokenizer

# JSON has no minus infinity; OpenAI and vLLM spell it so.
_LOWEST_LOGPROB = -9999.0


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


class CompletionLogprobs(Struct):
    """Completions' logprobs of one choice, or of a chunk of it."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(Struct):
    """vLLM's object for one token at one place of a prompt; `rank` counts from 1."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs: TypeAlias = list[dict[int, PromptLogprob] | None]
"""Of each prompt token: itself and the likeliest ones, by id; nothing for the first, which nothing comes before."""


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


def prompt_logprobs(
    ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], names: TokenNames, top: int
) -> PromptLogprobs:
    """Spell a prompt's logprobs: each token, and the `top` likeliest at its place."""
    return [
        None if found is None else _at_place(token_id, found, names, top)
        for token_id, found in zip(ids, logprobs, strict=True)
    ]


def _at_place(token_id: int, found: TokenLogprobs, names: TokenNames, top: int) -> dict[int, PromptLogprob]:
    chosen = {token_id: PromptLogprob(_finite(found.logprob), found.rank, names.text(token_id))}
    likeliest = {
        other: PromptLogprob(_finite(value), rank, names.text(other))
        for rank, (other, value) in enumerate(found.top[:top], start=1)
    }
    return chosen | {other: entry for other, entry in likeliest.items() if other != token_id}


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
