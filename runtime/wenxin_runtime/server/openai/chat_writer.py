"""Pieces of an answer to chat objects."""

from msgspec import UNSET

from wenxin_runtime.server.http import encode_json
from wenxin_runtime.server.openai.logprobs import PromptLogprobs, TokenNames, chat_logprobs, prompt_logprobs
from wenxin_runtime.server.openai.piece import CallPart, Piece
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.server.openai.responses import (
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    FunctionCall,
    FunctionCallDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from wenxin_runtime.server.served_model import ServedModel


class ChatWriter:
    """Spells one chat answer."""

    def __init__(self, plan: Plan, model: ServedModel) -> None:
        self._plan = plan
        self._thinks = plan.answer_format is not None and plan.answer_format.stage is not None
        self._shows_reasoning = plan.answer_format is not None and plan.answer_format.include_reasoning
        self._names = TokenNames(model.tokenizer, as_ids=plan.tokens_as_ids)

    def whole(self, pieces: list[Piece], usage: Usage) -> bytes:
        """Spell the whole answer."""
        plan = self._plan
        choices = [
            ChatChoice(
                index=piece.index,
                message=self._message(piece),
                logprobs=None if plan.top_logprobs is None else chat_logprobs(piece.scored, self._names),
                finish_reason=piece.finish_reason,
                stop_reason=piece.stop_reason,
                token_ids=piece.token_ids if plan.return_token_ids else UNSET,
            )
            for piece in pieces
        ]
        prompt_ids = plan.prompts[0].ids if plan.return_token_ids else UNSET
        return encode_json(
            ChatCompletion(
                plan.id,
                plan.created,
                plan.model,
                choices,
                usage,
                prompt_logprobs=UNSET if plan.prompt_logprobs is None else self._prompt_logprobs(pieces[0]),
                prompt_token_ids=prompt_ids,
            )
        )

    def chunks(self, piece: Piece, usage: Usage | None) -> list[bytes]:
        """Spell one piece: the role first, where the choice begins."""
        found = [self._opening(piece.index, usage)] if piece.opening else []
        ids = self._plan.return_token_ids and piece.token_ids
        if any(piece.parts) or piece.reasoning_parts or piece.calls or piece.finish_reason or piece.scored or ids:
            found.append(self._chunk(self._choice(piece), usage))
        return found

    def usage_chunk(self, usage: Usage) -> bytes:
        """Spell the last chunk of a stream that was asked for its usage."""
        plan = self._plan
        return encode_json(ChatChunk(plan.id, plan.created, plan.model, [], usage))

    def _opening(self, index: int, usage: Usage | None) -> bytes:
        choice = ChatChunkChoice(index, ChatDelta(role="assistant", content=""))
        return self._chunk(choice, usage, prompt_ids=self._plan.return_token_ids)

    def _message(self, piece: Piece) -> ChatAnswer:
        """Spell a whole message; it has no content where the model came only to thinking or to calls."""
        calls = _whole_calls(piece.calls)
        empty = None if calls or self._thinks else ""
        reasoning = (piece.reasoning or None) if self._thinks and self._shows_reasoning else UNSET
        return ChatAnswer(
            "assistant",
            piece.text or empty,
            reasoning_content=reasoning,
            reasoning=reasoning,
            tool_calls=calls or UNSET,
        )

    def _prompt_logprobs(self, piece: Piece) -> PromptLogprobs | None:
        if piece.prompt_logprobs is None:
            return None
        ids, top = self._plan.prompt_of(piece.index).ids, self._plan.prompt_logprobs or 0
        return prompt_logprobs(ids, piece.prompt_logprobs, self._names, top)

    def _choice(self, piece: Piece) -> ChatChunkChoice:
        plan = self._plan
        return ChatChunkChoice(
            index=piece.index,
            delta=_delta(piece),
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


def _delta(piece: Piece) -> ChatDelta:
    reasoning = piece.reasoning or UNSET
    calls = _call_deltas(piece.calls) or UNSET
    # A chunk that only brings logprobs or token ids has an empty content, so that clients may always read one.
    others = piece.reasoning_parts or piece.calls or piece.finish_reason
    content = piece.text or (UNSET if others else "")
    return ChatDelta(content=content, reasoning_content=reasoning, reasoning=reasoning, tool_calls=calls)


def _call_deltas(parts: list[CallPart]) -> list[ToolCallDelta]:
    """Spell what was added to each call, once per call: not every client puts several additions together."""
    added: dict[int, ToolCallDelta] = {}
    for part in parts:
        if part.id is not None and part.name is not None:
            added[part.index] = ToolCallDelta(
                part.index, FunctionCallDelta(part.name, part.arguments), part.id, "function"
            )
        elif part.index in added:
            added[part.index].function.arguments += part.arguments
        else:
            added[part.index] = ToolCallDelta(part.index, FunctionCallDelta(arguments=part.arguments))
    return list(added.values())


def _whole_calls(parts: list[CallPart]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for part in parts:
        if part.id is not None and part.name is not None:
            calls.append(ToolCall(part.id, FunctionCall(part.name, part.arguments)))
        else:
            calls[-1].function.arguments += part.arguments
    return calls
