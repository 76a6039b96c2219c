"""POST /tokenize and /detokenize, with vLLM's fields: what a text costs, and what tokens say."""

import functools
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from wenxin_runtime.errors import InvalidRequest, RequestError
from wenxin_runtime.server.generation import ClientGone
from wenxin_runtime.server.http import error_response, json_response, read_body
from wenxin_runtime.server.openai.messages import encode
from wenxin_runtime.server.openai.parsing import parse
from wenxin_runtime.server.openai.plan import without_blocking
from wenxin_runtime.server.openai.schemas import DetokenizeRequest, TokenizeRequest
from wenxin_runtime.server.served_model import ServedModel
from wenxin_runtime.server.service import Service


class Tokenized(Struct, frozen=True):
    """The answer of /tokenize; `token_strs` are the tokens as tokenizer.json spells them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType | None = UNSET


class Detokenized(Struct, frozen=True):
    """The answer of /detokenize, special tokens included."""

    prompt: str


class Tokens:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        """Encode a prompt, or a chat with its template."""
        return await self._answer(request, self._tokenize)

    async def detokenize(self, request: Request) -> Response:
        """Decode token ids."""
        return await self._answer(request, self._detokenize)

    async def _answer(self, request: Request, work: Callable[[bytes, ServedModel], Awaitable[Struct]]) -> Response:
        try:
            model = self._service.loaded()
            body = await read_body(request.receive, self._service.config.max_request_bytes)
            return json_response(await work(body, model))
        except ClientGone:
            return Response(status_code=499)  # nobody reads it
        except RequestError as error:
            return error_response(error)

    async def _tokenize(self, body: bytes, model: ServedModel) -> Tokenized:
        request = parse(body, TokenizeRequest)
        self._service.check_model_name(request.model)
        ids = await self._ids(request, model, len(body))
        spellings = [model.tokenizer.spelling(i) for i in ids] if request.return_token_strs else None
        return Tokenized(len(ids), self._service.max_model_len, ids, spellings)

    async def _ids(self, request: TokenizeRequest, model: ServedModel, characters: int) -> list[int]:
        if (request.prompt is None) == (request.messages is None):
            raise InvalidRequest("send either a prompt or messages", param="prompt")
        if request.prompt is None:
            tools = None if request.tools is None else msgspec.to_builtins(request.tools)
            return await encode(request, model.tokenizer, tools=tools, characters=characters)
        specials = request.add_special_tokens is not False
        work = functools.partial(model.tokenizer.encode, request.prompt, add_special_tokens=specials)
        return await without_blocking(work, characters)

    async def _detokenize(self, body: bytes, model: ServedModel) -> Detokenized:
        request = parse(body, DetokenizeRequest)
        self._service.check_model_name(request.model)
        wrong = next((i for i in request.tokens if i >= model.vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(f"tokens: {wrong} is outside the vocabulary of {model.vocab_size}", param="tokens")
        work = functools.partial(model.tokenizer.decode, request.tokens, skip_special_tokens=False)
        return Detokenized(await without_blocking(work, len(body)))
