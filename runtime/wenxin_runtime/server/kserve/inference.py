"""A request to a plan, and a generation to responses; whoever speaks HTTP or gRPC only spells them."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from wenxin_runtime.errors import InvalidRequest, ModelNotFound
from wenxin_runtime.server.generation import Generation
from wenxin_runtime.server.http import encode_json
from wenxin_runtime.server.kserve import signature, tensors
from wenxin_runtime.server.kserve.tensors import Tensor
from wenxin_runtime.server.openai.answer import Answer
from wenxin_runtime.server.openai.completions import plan_completion
from wenxin_runtime.server.openai.logprobs import TokenNames, completion_logprobs
from wenxin_runtime.server.openai.piece import Piece
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.server.served_model import ServedModel
from wenxin_runtime.server.service import Service

VERSION = "1"
"""The only version of a model. What is new has a new deployment, and Kubernetes rolls it out."""
FINAL = "triton_final_response"
CACHE = "wenxin_cache"
"""Parameter of a response: where it comes from, as the header X-Wenxin-Cache says."""
_EMPTY_FINAL = "triton_enable_empty_final_response"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `outputs` are the tensors that it names; none: all there are."""

    model: str
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Tensor] = ()
    outputs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer, or one piece of a stream; the last one is `final`."""

    model: str
    id: str
    outputs: tuple[Tensor, ...]
    final: bool = True
    parameters: Mapping[str, str | bool] = field(default_factory=dict)


def check_version(version: str, model: str) -> None:
    """Refuse a version that there is not.

    Raises:
        ModelNotFound: names it.
    """
    if version not in ("", VERSION):
        raise ModelNotFound(f"the model {model!r} has no version {version[:32]!r}; there is only {VERSION}")


class Inference:
    """A request that is understood.

    Attributes:
        plan: What is to be generated.
    """

    def __init__(self, request: Request, plan: Plan, outputs: frozenset[str], model: ServedModel) -> None:
        self.plan = plan
        self._request = request
        self._outputs = outputs
        self._model = model
        self._names = TokenNames(model.tokenizer)

    @classmethod
    async def of(
        cls, request: Request, service: Service, model: ServedModel, *, pieces: bool, stream: bool = False
    ) -> "Inference":
        """Check a request and work out what to generate.

        Args:
            request: As it came.
            service: The server.
            model: Its model.
            pieces: Whether an answer in pieces can be given the way it came.
            stream: Whether it wants one where it does not say.

        Raises:
            RequestError: names the tensor or the parameter at fault.
        """
        service.check_model_name(request.model)
        check_version(request.version, request.model)
        question = signature.read(request.inputs, request.parameters, request.outputs, stream=stream)
        if question.completion.stream and not pieces:
            hint = "use /generate_stream, or ModelStreamInfer over gRPC"
            raise InvalidRequest(f"stream: an answer in pieces cannot be given here; {hint}", param="stream")
        completion = msgspec.structs.replace(question.completion, model=request.model)
        plan = await plan_completion(completion, service, model, prompt_param=question.prompt)
        return cls(request, plan, question.outputs, model)

    async def responses(self, generation: Generation, cache: str | None = None) -> AsyncGenerator[Response]:
        """Give the answer: in pieces of text as they come where the request streams, else whole.

        Args:
            generation: What the plan became.
            cache: Where it comes from, if there is a cache.

        Raises:
            RequestError: the answer cannot be finished.
            ClientGone: nobody waits for it.
        """
        answer = Answer(self.plan, self._model.tokenizer, generation)
        parameters = {} if cache is None else {CACHE: str(cache)}
        if not self.plan.stream:
            (piece,) = await answer.whole()
            yield self._response(piece, parameters)
            return
        async for piece in _shown(answer):
            response = self._response(piece, parameters)
            if response.final and self._request.parameters.get(_EMPTY_FINAL) is True:
                yield replace(response, final=False)
                yield replace(response, outputs=())
            else:
                yield response

    def _response(self, piece: Piece, parameters: Mapping[str, str]) -> Response:
        final = piece.finish_reason is not None
        given = {
            "text_output": tensors.text("text_output", piece.text),
            "token_ids": tensors.numbers("token_ids", "INT32", piece.token_ids),
            "finish_reason": tensors.text("finish_reason", piece.finish_reason or ""),
            "num_input_tokens": tensors.numbers("num_input_tokens", "UINT32", [self.plan.prompt_tokens]),
            "num_output_tokens": tensors.numbers("num_output_tokens", "UINT32", [len(piece.token_ids)]),
        }
        if self.plan.top_logprobs is not None:
            scored = completion_logprobs(piece.scored, self._names, self.plan.top_logprobs)
            given["logprobs"] = tensors.text("logprobs", encode_json(scored).decode())
        outputs = tuple(tensor for name, tensor in given.items() if name in self._outputs)
        return Response(self._request.model, self._request.id, outputs, final, parameters)


async def _shown(answer: Answer) -> AsyncIterator[Piece]:
    """Wait for pieces that show text. Tokens that show none go with the next that do."""
    pieces: dict[int, Piece] = {}
    while not answer.finished:
        await answer.grow(pieces)
        piece = pieces.get(0)
        if piece is not None and (piece.text or piece.finish_reason is not None):
            yield piece
            pieces = {}
