"""Keeps certificate, trust and API server in step, now and then, for as long as this copy runs.

Every copy reads the Secret and serves what is in it. The copy that leads also writes it, and tells the API server whom
to trust. The Secret and the APIServices are the chart's: they go when it goes, and nobody else's is touched.
"""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from wenxin_operator.errors import ApiError, Conflict, Forbidden, NotFound
from wenxin_operator.metrics_api.callers import FrontProxy
from wenxin_operator.metrics_api.certificates import Credentials, renewed
from wenxin_operator.metrics_api.queries import GROUP, VERSIONS

logger = logging.getLogger(__name__)

LOOK_SECONDS = 300.0
SOON_SECONDS = 2.0
"""Until the copy that leads has filled the Secret."""
AGAIN_SECONDS = 30.0
"""After a failure."""
FRONT_PROXY = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
_MERGE = "application/merge-patch+json"

Object = dict[str, Any]
Send = Callable[..., Awaitable[Object]]
"""Cluster.send."""


class Upkeep:
    """Looks after what the API is served with.

    Args:
        send: To the API server.
        namespace: Where this operator runs.
        name: Of the Secret and of the Service.
        leads: Whether this copy may write.
        exchange: Takes what is to be served and trusted from now on.
        now: The time.
    """

    def __init__(
        self,
        send: Send,
        *,
        namespace: str,
        name: str,
        leads: Callable[[], bool],
        exchange: Callable[[Credentials, FrontProxy], Awaitable[None]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._send, self._leads, self._exchange, self._now = send, leads, exchange, now
        self._secret = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        self._host = f"{name}.{namespace}.svc"
        self._serving: tuple[Credentials, FrontProxy] | None = None
        self._said = ""

    async def run(self) -> None:
        """Look for ever. What goes wrong is logged once, and tried again."""
        while True:
            rest = await self.look()
            await asyncio.sleep(rest)

    async def look(self) -> float:
        """Look once.

        Returns:
            Seconds until it is worth looking again.
        """
        try:
            return await self._step()
        except Conflict:
            return SOON_SECONDS  # another copy was faster
        except (ApiError, ValueError, OSError) as error:
            self._say(f"the metrics API for autoscalers is not kept up: {error}{_hint(error)}")
        except Exception:
            logger.exception("the metrics API for autoscalers is not kept up")
        return AGAIN_SECONDS

    async def _step(self) -> float:
        secret = await self._send("GET", self._secret)
        held = Credentials.from_data(secret.get("data"))
        if self._leads():
            held = await self._renew(secret, held)
        if held is None:
            return SOON_SECONDS
        front = FrontProxy.from_data((await self._send("GET", FRONT_PROXY)).get("data") or {})
        if (held, front) != self._serving:
            await self._exchange(held, front)
            self._serving = held, front
        self._say("")
        return LOOK_SECONDS

    async def _renew(self, secret: Object, held: Credentials | None) -> Credentials:
        """What was served stays, where only the Secret has lost it."""
        known = held or (self._serving[0] if self._serving else None)
        wanted = renewed(known, self._host, self._now())
        if wanted != held:
            # With the version that was read: two copies that both think they lead do not overwrite each other.
            await self._send("PUT", self._secret, body={**secret, "data": wanted.data()})
            logger.info("renewed the certificate of the metrics API")
        bundle = base64.b64encode(wanted.bundle).decode()
        for version in VERSIONS:
            await self._trust(f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.{GROUP}", bundle)
        return wanted

    async def _trust(self, service: str, bundle: str) -> None:
        live = await self._send("GET", service)
        if (live.get("spec") or {}).get("caBundle") != bundle:
            await self._send("PATCH", service, body={"spec": {"caBundle": bundle}}, content=_MERGE)

    def _say(self, words: str) -> None:
        if words and words != self._said:
            logger.warning("%s", words)
        self._said = words


def _hint(error: Exception) -> str:
    if isinstance(error, NotFound | Forbidden):
        return " (the chart makes it, and the rights to it, where metrics.provider is embedded)"
    return ""
