"""How busy a pod is, in its own words: `GET /load` of the runtime, a hundred bytes of JSON.

Asked before a shrink (who is idlest?) and by what serves metrics to autoscalers. A pod that does not answer is
missing, never idle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from wenxin_operator.names import Raw
from wenxin_operator.plan.flags import PORT

ASK_SECONDS = 2.0
"""How long a pod may take to answer: its server process does nothing else on the way to /load."""
LONGEST_ANSWER = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Load:
    """What one replica has to do. Sequences, except `slots` and `queue_size`, which are places.

    Attributes:
        waiting: Sequences that wait for a slot.
        running: Sequences that hold one.
        slots: How many may run at the same time.
        queue_size: How many requests may wait.
        kv_usage: Used share of the KV cache, 0 to 1.
        draining: It takes no more requests.
        cache: Whether the Redis of its answer cache answers ("ok") or not ("down"); empty without such a cache.
    """

    waiting: int
    running: int
    slots: int
    queue_size: int
    kv_usage: float = 0.0
    draining: bool = False
    cache: str = ""

    @property
    def sequences(self) -> int:
        """What would have to end before this replica may go without a cut."""
        return self.waiting + self.running

    @classmethod
    def parse(cls, answer: Any) -> Self | None:
        """Read the body of /load; None where it is something else."""
        if not isinstance(answer, Mapping):
            return None
        try:
            waiting, running, slots, queue_size = (
                int(answer[field]) for field in ("waiting", "running", "slots", "queue_size")
            )
            kv_usage = float(answer.get("kv_usage", 0.0))
        except (KeyError, TypeError, ValueError):
            return None
        cache = str(answer.get("cache", ""))
        return cls(waiting, running, slots, queue_size, kv_usage, bool(answer.get("draining")), cache)


async def ask(session: aiohttp.ClientSession, pod: Raw) -> Load | None:
    """Ask one pod; None where it has no address yet, does not answer in time, or says something else.

    Args:
        session: A plain session without credentials: the API server's are nothing for a pod.
        pod: As the API says it.
    """
    return Load.parse(await words(session, pod))


async def words(session: aiohttp.ClientSession, pod: Raw) -> Any:
    """What one pod says at /load, unread: a download's is about bytes; None as for `ask`."""
    address = (pod.get("status") or {}).get("podIP")
    if not address:
        return None
    host = f"[{address}]" if ":" in address else address
    try:
        async with session.get(
            f"http://{host}:{PORT}/load", timeout=aiohttp.ClientTimeout(total=ASK_SECONDS), allow_redirects=False
        ) as response:
            body = await _bounded(response) if response.status == 200 else None
            return None if body is None else json.loads(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
        return None


async def _bounded(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, whether or not its length is told; None where it is longer than any of ours."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > LONGEST_ANSWER:
            return None
    return bytes(body)
