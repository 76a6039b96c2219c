"""ModelStreamInfer: any number of requests over one stream, answered side by side, each in as many pieces as it has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from wenxin_runtime.errors import RequestError
from wenxin_runtime.server.kserve import grpc_format
from wenxin_runtime.server.kserve.grpc_calls import Calls, metadata_of
from wenxin_runtime.server.kserve.inference import FINAL
from wenxin_runtime.server.kserve.protos.open_inference_pb2 import ModelInferRequest, ModelStreamInferResponse

METHOD = "ModelStreamInfer"
# Requests of one stream that may be under way beyond those there is a place for, to be told that there is none. More
# are not read: a client that asks and never reads an answer would fill the memory with them.
_REFUSALS = 64


class Stream:
    """One stream, from its first request to its end.

    A request that fails is told so in the stream, and ends alone. A client that cancels the stream ends them all.
    """

    def __init__(self, calls: Calls, context: Any) -> None:
        self._calls = calls
        self._context = context
        self._metadata = metadata_of(context)
        self._writing = asyncio.Lock()
        self._open: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(calls.places + _REFUSALS)

    async def run(self, requests: AsyncIterator[ModelInferRequest], closing: asyncio.Event) -> None:
        """Answer requests until the client says that there are no more, or the server goes."""
        reading = asyncio.create_task(self._read(requests))
        stopping = asyncio.create_task(_waited(closing))
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._open:
                await asyncio.wait(self._open)
            if not reading.done():
                await self._context.abort(grpc.StatusCode.UNAVAILABLE, "the server has stopped, ask another replica")
            reading.result()
        finally:
            # A client that cancelled has cancelled this task: its requests end here, and free what they hold.
            for task in (reading, stopping, *self._open):
                task.cancel()
            await asyncio.gather(reading, stopping, *self._open, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        async for request in requests:
            await self._room.acquire()
            task = asyncio.create_task(self._answer(request))
            self._open.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._room.release()

    async def _answer(self, request: ModelInferRequest) -> None:
        try:
            with self._calls.recorded(METHOD, self._metadata) as exchange:
                answers = self._calls.responses(request, exchange, self._metadata, pieces=True)
                async with contextlib.aclosing(answers) as responses:
                    async for response in responses:
                        message = grpc_format.write_infer(response, streamed=True)
                        await self._write(ModelStreamInferResponse(infer_response=message))
        except RequestError as error:
            message = ModelStreamInferResponse(error_message=error.message)
            message.infer_response.model_name = request.model_name
            message.infer_response.id = request.id
            message.infer_response.parameters[FINAL].bool_param = True
            await self._write(message)

    async def _write(self, message: ModelStreamInferResponse) -> None:
        async with self._writing:
            await self._context.write(message)


async def _waited(event: asyncio.Event) -> None:
    await event.wait()
