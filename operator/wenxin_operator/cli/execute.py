"""One command inside a pod, over the API server's exec: as far as `kubectl exec` reaches.

The protocol is v5.channel.k8s.io, or v4 of an older server: a WebSocket whose messages begin with the number of a
channel, 1 for the command's output, 2 for its errors, and 3 for how it ended, a metav1.Status
(https://kubernetes.io/docs/reference/using-api/websockets).
"""

import json
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

import aiohttp

from wenxin_operator.connection import Endpoint
from wenxin_operator.errors import OperatorError, Unreachable

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_OUTPUT, _ERRORS, _ENDING = 1, 2, 3


async def output_of(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    namespace: str,
    pod: str,
    command: Sequence[str],
    tell: Callable[[str], None],
    container: str = "runtime",
) -> str:
    """Run a command to its end; returns what it wrote.

    Args:
        session: Logged in.
        endpoint: The API server.
        namespace: The pod's.
        pod: Its name.
        command: Program and arguments.
        tell: Takes what it writes to stderr, as it comes.
        container: Where in the pod.

    Raises:
        Unreachable: the API server or the kubelet does not let us.
        OperatorError: it ended with another code than 0.
    """
    asked = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
    url = f"{endpoint.server}/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(asked)}"
    try:
        # The session's own Accept is refused with 406: what comes is no JSON.
        async with session.ws_connect(url, protocols=PROTOCOLS, headers={"Accept": "*/*"}) as channel:
            return await _ended(channel, pod, tell)
    except aiohttp.WSServerHandshakeError as error:
        raise Unreachable(f"pod {pod}: the API server refuses exec ({error.status})") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"pod {pod}: {str(error) or type(error).__name__}") from error


async def _ended(channel: aiohttp.ClientWebSocketResponse, pod: str, tell: Callable[[str], None]) -> str:
    output = bytearray()
    async for message in channel:
        if message.type != aiohttp.WSMsgType.BINARY:
            break
        number, data = message.data[0], message.data[1:]
        if number == _OUTPUT:
            output += data
        elif number == _ERRORS:
            tell(data.decode(errors="replace"))
        elif number == _ENDING:
            _judge(json.loads(data), pod)
            return output.decode(errors="replace")
    raise Unreachable(f"pod {pod}: the connection broke before the command ended")


def _judge(status: dict[str, object], pod: str) -> None:
    if status.get("status") != "Success":
        raise OperatorError(f"pod {pod}: {status.get('message') or 'the command failed'}")
