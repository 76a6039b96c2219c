"""One GET from a port inside a pod, over the API server's port-forward: as far as `kubectl port-forward` reaches.

A request through the pods' proxy would come from a node and end at their NetworkPolicy; this one is made inside the pod
by its kubelet. The protocol is v4.channel.k8s.io: a WebSocket whose messages begin with the number of a channel, 0 for
the bytes and 1 for errors; the first message of each is the port, in two bytes
(kubelet, staging/src/k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go).
"""

import http.client
import io

import aiohttp

from wenxin_operator.connection import Endpoint
from wenxin_operator.errors import Unreachable

PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1
_HEAD_BYTES = 2
LONGEST = 8 * 2**20  # bytes of an answer


async def get(
    session: aiohttp.ClientSession, endpoint: Endpoint, namespace: str, pod: str, port: int, path: str
) -> bytes:
    """Return the body of an answer with status 200.

    Args:
        session: Logged in.
        endpoint: The API server.
        namespace: The pod's.
        pod: Its name.
        port: Where it listens.
        path: What is asked of it.

    Raises:
        Unreachable: the API server, the kubelet or the pod does not let us, or the pod answers something else.
    """
    url = f"{endpoint.server}/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
    try:
        # The session's own Accept is refused with 406: what comes is no JSON.
        async with session.ws_connect(url, protocols=(PROTOCOL,), headers={"Accept": "*/*"}) as channel:
            request = f"GET {path} HTTP/1.1\r\nHost: {pod}\r\nConnection: close\r\nAccept: */*\r\n\r\n"
            await channel.send_bytes(bytes([_DATA]) + request.encode())
            return _body(await _received(channel, f"pod {pod}"), f"pod {pod}")
    except aiohttp.WSServerHandshakeError as error:
        raise Unreachable(f"pod {pod}: the API server refuses a port-forward ({error.status})") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"pod {pod}: {str(error) or type(error).__name__}") from error


async def _received(channel: aiohttp.ClientWebSocketResponse, who: str) -> bytes:
    """All bytes until the answer is whole or the other side hangs up."""
    answer, begun = bytearray(), set[int]()
    async for message in channel:
        if message.type != aiohttp.WSMsgType.BINARY:
            break
        number, data = message.data[0], message.data[1:]
        if number not in begun:
            begun.add(number)
            data = data[_HEAD_BYTES:]
        if number == _ERROR and data:
            raise Unreachable(f"{who}: {data.decode(errors='replace').strip()}")
        if number == _DATA:
            answer += data
        if _whole(answer) or len(answer) > LONGEST:
            break
    return bytes(answer)


def _whole(answer: bytearray) -> bool:
    head, found, body = bytes(answer).partition(b"\r\n\r\n")
    if not found:
        return False
    length = next(
        (line.split(b":", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), None
    )
    return length is not None and len(body) >= int(length)


class _Bytes:
    """What http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _body(answer: bytes, who: str) -> bytes:
    response = http.client.HTTPResponse(_Bytes(answer))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"{who}: its answer is cut short or no HTTP") from error
    if response.status != 200:
        raise Unreachable(f"{who}: answered {response.status}")
    return body
