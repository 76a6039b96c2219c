"""Which requests go through a proxy: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in either case.

NO_PROXY is read as Kubernetes and Go write it: names with what lies below them, addresses, networks (10.0.0.0/8,
fd00::/8), each with a port or without, or * for all. httpx reads no networks, and fails on those of IPv6.
"""

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.request import getproxies

import httpx

_ENTRY = re.compile(r"(?:\[(?P<address>[^\]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d{1,5}))?|(?P<bare>.*:.*:.*)")


class Routes(httpx.AsyncBaseTransport):
    """Sends each request to its host, or to the proxy of its scheme."""

    def __init__(self, limits: httpx.Limits, proxies: Mapping[str, str] | None = None) -> None:
        """Read the environment, or `proxies`: URLs by scheme, and the exceptions as `no`.

        Raises:
            OSError, ValueError, ImportError, httpx.InvalidURL: a bundle of authorities or a proxy is no good.
        """
        told = getproxies() if proxies is None else proxies
        trusted = httpx.create_ssl_context(trust_env=True)
        self._exceptions = [entry for word in told.get("no", "").split(",") if (entry := word.strip())]
        self._direct = httpx.AsyncHTTPTransport(verify=trusted, limits=limits)
        self._proxied = {
            scheme: httpx.AsyncHTTPTransport(verify=trusted, limits=limits, proxy=httpx.Proxy(_with_scheme(url)))
            for scheme in ("http", "https")
            if (url := told.get(scheme) or told.get("all"))
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        proxied = self._proxied.get(request.url.scheme)
        direct = proxied is None or is_excepted(request.url, self._exceptions)
        return await (self._direct if direct or proxied is None else proxied).handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in (self._direct, *self._proxied.values()):
            await transport.aclose()


def is_excepted(url: httpx.URL, exceptions: Iterable[str]) -> bool:
    """Say whether NO_PROXY names the host of `url`."""
    host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
    return any(_matches(entry.lower(), host, port) for entry in exceptions)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    found = _ENTRY.fullmatch(entry.partition("://")[2] or entry)
    if found is None or int(found["port"] or port) != port:
        return False
    name = found["address"] or found["name"] or found["bare"]
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    name = name.removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"
