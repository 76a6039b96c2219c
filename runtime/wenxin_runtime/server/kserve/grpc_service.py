"""The methods of inference.GRPCInferenceService, and of grpc.health.v1.Health beside it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from wenxin_runtime.errors import RequestError
from wenxin_runtime.server.kserve import grpc_format
from wenxin_runtime.server.kserve.description import Description
from wenxin_runtime.server.kserve.grpc_calls import SERVICE, Calls, code_of, metadata_of, retry_hint
from wenxin_runtime.server.kserve.grpc_stream import METHOD as STREAM
from wenxin_runtime.server.kserve.grpc_stream import Stream
from wenxin_runtime.server.kserve.protos import health_pb2 as health
from wenxin_runtime.server.kserve.protos import open_inference_pb2 as pb
from wenxin_runtime.server.service import Service

if TYPE_CHECKING:
    _Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]

_HEALTH = "grpc.health.v1.Health"
# They travel as metadata, of which a client takes 8 KiB, and each letter of Chinese is nine bytes there.
_LONGEST_DETAILS = 500
_Answer: TypeAlias = Callable[[Any], Message]


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in the stubs only
    """Finds the handler of a method; Triton's that are not spoken here are refused by their names.

    Attributes:
        closing: Set when open streams have to end.
    """

    def __init__(self, service: Service) -> None:
        self.closing = asyncio.Event()
        self._calls = Calls(service)
        self._description = told = Description(service)
        answers: dict[str, tuple[type[Message], _Answer]] = {
            "ServerLive": (pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=told.live)),
            "ServerReady": (pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=told.ready)),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, lambda _: _filled(pb.ServerMetadataResponse, told.server())),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": (pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": (pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._repository_index),
        }
        self._handlers = {f"/{SERVICE}/{name}": _unary(kind, answer) for name, (kind, answer) in answers.items()}
        self._handlers[f"/{_HEALTH}/Check"] = _unary(health.HealthCheckRequest, self._check)
        self._handlers[f"/{SERVICE}/ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            self._infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        )
        self._handlers[f"/{SERVICE}/{STREAM}"] = grpc.stream_stream_rpc_method_handler(
            self._stream, pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_Handler | None":
        """Find the handler of a method; None for a service that there is not."""
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        return _unsupported(method) if method.startswith(f"/{SERVICE}/") else None

    async def _infer(self, message: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        metadata = metadata_of(context)
        try:
            with self._calls.recorded("ModelInfer", metadata) as exchange:
                answers = self._calls.responses(message, exchange, metadata, pieces=False)
                async with contextlib.aclosing(answers) as responses:
                    return grpc_format.write_infer(await anext(responses), streamed=False)
        except RequestError as error:
            await _refuse(context, error)
            raise

    async def _stream(self, requests: AsyncIterator[pb.ModelInferRequest], context: Any) -> None:
        await Stream(self._calls, context).run(requests, self.closing)

    def _model_ready(self, message: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        told = self._description
        return pb.ModelReadyResponse(ready=told.ready and told.knows(message.name, message.version))

    def _model_metadata(self, message: pb.ModelMetadataRequest) -> Message:
        return _filled(pb.ModelMetadataResponse, self._description.model(message.name, message.version))

    def _model_config(self, message: pb.ModelConfigRequest) -> Message:
        return _filled(pb.ModelConfigResponse, {"config": self._description.config(message.name, message.version)})

    def _model_statistics(self, message: pb.ModelStatisticsRequest) -> Message:
        return _filled(pb.ModelStatisticsResponse, self._description.statistics(message.name, message.version))

    def _repository_index(self, message: pb.RepositoryIndexRequest) -> Message:
        return _filled(pb.RepositoryIndexResponse, {"models": self._description.index(only_ready=message.ready)})

    def _check(self, message: health.HealthCheckRequest) -> health.HealthCheckResponse:
        """Answer for the whole server, and for the service by its name."""
        statuses = health.HealthCheckResponse.ServingStatus
        if message.service not in ("", SERVICE):
            return health.HealthCheckResponse(status=statuses.Value("SERVICE_UNKNOWN"))
        ready = "SERVING" if self._description.ready else "NOT_SERVING"
        return health.HealthCheckResponse(status=statuses.Value(ready))


def _filled(kind: type[Message], content: dict[str, Any]) -> Message:
    return json_format.ParseDict(content, kind())


def _unary(kind: type[Message], answer: _Answer) -> "_Handler":
    async def handle(message: Any, context: Any) -> Message:
        try:
            return answer(message)
        except RequestError as error:
            await _refuse(context, error)
            raise

    return grpc.unary_unary_rpc_method_handler(handle, kind.FromString, _serialized)


def _serialized(message: Message) -> bytes:
    content: bytes = message.SerializeToString()
    return content


async def _refuse(context: Any, error: RequestError) -> None:
    """End a call with the status of `error`; this raises."""
    await context.abort(code_of(error), error.message[:_LONGEST_DETAILS], retry_hint(error))


def _unsupported(method: str) -> "_Handler":
    async def handle(_: bytes, context: Any) -> None:
        name = method.rpartition("/")[2]
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not supported by this server")

    return grpc.unary_unary_rpc_method_handler(handle)
