"""The routes of /v2."""

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wenxin_runtime.errors import ModelNotFound, RequestError
from wenxin_runtime.server.generation import ClientGone
from wenxin_runtime.server.http import json_response, read_body
from wenxin_runtime.server.kserve.description import Description
from wenxin_runtime.server.kserve.endpoints import InferEndpoint, refusal
from wenxin_runtime.server.service import Service

_NAMED = ("/v2/models/{model:path}/versions/{version}", "/v2/models/{model:path}")
# Extensions of Triton's that this server does not have.
_EXTENSIONS = ("repository", "systemsharedmemory", "cudasharedmemory", "trace", "logging")
_MOST_INDEX_BYTES = 4096


class _IndexRequest(msgspec.Struct):
    ready: bool = False


def routes(service: Service) -> list[Route]:
    """List the routes; the last one answers for all that there are not."""
    told = _Told(service)
    found = [
        Route("/v2", told.server),
        Route("/v2/", told.server),
        Route("/v2/health/live", told.live),
        Route("/v2/health/ready", told.ready),
        Route("/v2/models/stats", told.statistics),
        Route("/v2/repository/index", told.index, methods=["POST"]),
    ]
    for kind in ("infer", "generate", "generate_stream"):
        endpoint = InferEndpoint(service, kind)
        found += [Route(f"{path}/{kind}", endpoint, methods=["POST"]) for path in _NAMED]
    for suffix, answer in (
        ("/ready", told.model_ready),
        ("/config", told.config),
        ("/stats", told.statistics),
        ("", told.model),
    ):
        found += [Route(path + suffix, answer) for path in _NAMED]
    return [*found, Route("/v2/{rest:path}", told.nothing, methods=["GET", "POST"])]


class _Told:
    """The routes that say what there is."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._description = Description(service)

    async def server(self, _: Request) -> Response:
        """Name this runtime."""
        return json_response(self._description.server())

    async def live(self, _: Request) -> Response:
        """Answer 200 while the process can still do its work."""
        return json_response({"live": self._description.live}, 200 if self._description.live else 503)

    async def ready(self, _: Request) -> Response:
        """Answer 200 while requests are welcome."""
        return json_response({"ready": self._description.ready}, 200 if self._description.ready else 503)

    async def model(self, request: Request) -> Response:
        """Name a model's tensors."""
        return self._of_model(request, self._description.model)

    async def config(self, request: Request) -> Response:
        """Give a model's configuration."""
        return self._of_model(request, self._description.config)

    async def statistics(self, request: Request) -> Response:
        """Tell what was asked of a model, or of all."""
        return self._of_model(request, self._description.statistics)

    async def model_ready(self, request: Request) -> Response:
        """Answer 200 while requests for this model are welcome."""
        name, version = _name(request)
        if not self._description.knows(name, version):
            return self._of_model(request, self._description.model)
        return json_response({"name": name, "ready": self._description.ready}, 200 if self._description.ready else 503)

    async def index(self, request: Request) -> Response:
        """List the models."""
        try:
            body = await read_body(request.receive, _MOST_INDEX_BYTES)
            wanted = msgspec.json.decode(body, type=_IndexRequest) if body else _IndexRequest()
        except ClientGone:
            return Response()  # to nobody
        except RequestError as error:
            return refusal(error)
        except msgspec.DecodeError as error:
            return json_response({"error": f"the body is not as the protocol has it: {error}"}, 400)
        return json_response(self._description.index(only_ready=wanted.ready))

    async def nothing(self, request: Request) -> Response:
        """Say that there is no such thing."""
        first = request.path_params["rest"].partition("/")[0]
        if first in _EXTENSIONS:
            return json_response({"error": f"the extension {first!r} is not supported by this server"}, 501)
        return json_response({"error": f"unknown route: {request.method} {request.url.path}"}, 404)

    def _of_model(self, request: Request, answer: Callable[[str, str], dict[str, Any]]) -> Response:
        try:
            return json_response(answer(*_name(request)))
        except ModelNotFound as error:
            return refusal(error)


def _name(request: Request) -> tuple[str, str]:
    path = request.path_params
    return path.get("model", ""), path.get("version", "")
