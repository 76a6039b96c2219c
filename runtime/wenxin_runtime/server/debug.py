"""/debug: what the engine holds and where its time goes. Off unless --enable-debug-endpoints says otherwise."""

import asyncio
import gzip
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from wenxin_runtime.errors import GenerationFailed, InvalidRequest, RequestError
from wenxin_runtime.ipc import Inspected, Profile
from wenxin_runtime.server.http import error_response, json_response
from wenxin_runtime.server.service import Load, Service

_DEFAULT_SECONDS, _MOST_SECONDS = 10.0, 60.0
# Some hundred operators a step: the default is a trace of some megabytes, the limit one that a browser still opens.
_DEFAULT_STEPS, _MOST_STEPS = 20, 200
_FORMATS = ("trace", "text")


class State(Struct, frozen=True):
    """The body of /debug/state: what /load says, and the engine's own view."""

    load: Load
    engine: Inspected


class Debug:
    """The routes for somebody who looks for a fault. Nothing here shows a prompt or an answer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def state(self, _: Request) -> Response:
        """Answer where every sequence stands, in the scheduler's order."""

        async def answer() -> Response:
            engine = await self._service.engine.inspect()
            return json_response(State(self._service.load, engine))

        return await _answered(answer)

    async def profile(self, request: Request) -> Response:
        """Watch the next steps with torch's profiler; answer a gzipped Chrome trace, or a table with format=text."""

        async def answer() -> Response:
            given = request.query_params.get
            seconds = _number("seconds", given("seconds"), _DEFAULT_SECONDS, _MOST_SECONDS)
            steps = max(1, int(_number("steps", given("steps"), _DEFAULT_STEPS, _MOST_STEPS)))
            kind = given("format") or _FORMATS[0]
            if kind not in _FORMATS:
                raise InvalidRequest(f"format must be one of {', '.join(_FORMATS)}, got {kind!r}", param="format")
            return await self._profile(seconds, steps, text=kind == "text")

        return await _answered(answer)

    async def _profile(self, seconds: float, steps: int, *, text: bool) -> Response:
        with tempfile.TemporaryDirectory(prefix="wenxin-profile-") as directory:
            trace = Path(directory) / "trace.json"
            seen = await self._service.engine.profile(Profile(seconds, steps, str(trace)))
            if seen.error is not None:
                raise GenerationFailed(seen.error, code="profile_failed")
            headers = {"X-Wenxin-Steps": str(seen.steps)}
            if text:
                return Response(seen.table, headers=headers, media_type="text/plain")
            # Here and not in the engine, whose streams would stand still meanwhile.
            content = await asyncio.to_thread(lambda: gzip.compress(trace.read_bytes(), compresslevel=4))
        name = time.strftime("wenxin-%Y%m%dT%H%M%SZ.trace.json.gz", time.gmtime())
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return Response(content, headers=headers, media_type="application/gzip")


async def _answered(answer: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await answer()
    except RequestError as error:
        return error_response(error)


def _number(name: str, given: str | None, default: float, most: float) -> float:
    """Read a query parameter, a number above 0.

    Raises:
        InvalidRequest: it is none, or too large.
    """
    try:
        value = default if given is None else float(given)
    except ValueError as error:
        raise InvalidRequest(f"{name} must be a number, got {given!r}", param=name) from error
    if not 0 < value <= most:
        raise InvalidRequest(f"{name} must lie above 0 and up to {most:g}, got {value:g}", param=name)
    return value
