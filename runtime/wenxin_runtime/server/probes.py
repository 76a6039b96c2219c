"""The routes for machines: liveness, readiness, load, metrics, version."""

from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from wenxin_runtime import __version__
from wenxin_runtime.errors import EngineDied
from wenxin_runtime.server.http import json_response
from wenxin_runtime.server.service import Health, Service


class Version(Struct, frozen=True):
    """The body of /version."""

    version: str


class Probes:
    """Liveness and readiness differ: a pod that loads or drains is alive, but wants no traffic."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        """Answer 200 while the process can still do its work, loading included."""
        state = self._service.engine.state
        if isinstance(state, EngineDied):
            return json_response(Health("engine_died", str(state)), 503)
        return json_response(Health("alive"))

    async def ready(self, _: Request) -> Response:
        """Answer 200 while new requests are welcome."""
        reason = self._service.why_not_ready
        return json_response(reason or Health("ready"), 503 if reason else 200)

    async def load(self, _: Request) -> Response:
        """Answer with the places taken and left; the operator scales on it."""
        return json_response(self._service.load)

    async def metrics(self, _: Request) -> Response:
        """Answer with the Prometheus text format."""
        return Response(self._service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def version(self, _: Request) -> Response:
        """Answer with this runtime's version."""
        return json_response(Version(__version__))
