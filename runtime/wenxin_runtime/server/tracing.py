"""Whether and where to send spans; the spans themselves are made in `spans`, which alone imports OpenTelemetry."""

import importlib
import logging
import os
from typing import Protocol
from urllib.parse import urlsplit

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.exchange import Exchange

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TRACES_PATH = "/v1/traces"
_INSTALL = "install the extra: pip install 'wenxin-operator[tracing]'"

logger = logging.getLogger(__name__)


class Tracing(Protocol):
    """Takes exchanges that are over. Neither method raises or waits for a collector."""

    def record(self, exchange: Exchange) -> None:
        """Make spans of an exchange, and send them some time."""

    async def close(self) -> None:
        """Send what has not been sent, for a few seconds at most."""


class Untraced:
    """Tracing where nobody asked for it."""

    def record(self, _: Exchange) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


def tracing_of(config: RuntimeConfig) -> Tracing:
    """Choose by --otlp-endpoint, else by OpenTelemetry's own environment variables.

    Raises:
        ConfigError: the flag's value is no URL, or what it needs is not installed.
    """
    if config.otlp_endpoint is None and not _wanted_by_environment():
        return Untraced()
    endpoint = None if config.otlp_endpoint is None else _traces_url(config.otlp_endpoint)
    try:
        spans = importlib.import_module("wenxin_runtime.server.spans")
    except ImportError as error:
        if endpoint is None:  # such variables may be set for a whole cluster: no reason to refuse to serve
            logger.warning("OTEL_* variables ask for traces, but %s is missing; %s", error.name, _INSTALL)
            return Untraced()
        raise ConfigError(f"--otlp-endpoint needs the module {error.name}; {_INSTALL}") from error
    traced: Tracing = spans.Spans.to(endpoint)
    logger.info("sending traces by OTLP to %s", endpoint or "the collector of the OTEL_* variables")
    return traced


def _wanted_by_environment() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        logger.warning("no traces: OTEL_EXPORTER_OTLP_PROTOCOL is %s; only http/protobuf is spoken here", protocol)
        return False
    return True


def _traces_url(given: str) -> str:
    """Add the path of traces, as OTEL_EXPORTER_OTLP_ENDPOINT is read, unless it is there.

    Raises:
        ConfigError: this is no URL.
    """
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--otlp-endpoint must be a URL like http://collector:4318, got {given!r}")
    base = given.rstrip("/")
    return base if base.endswith(_TRACES_PATH) else base + _TRACES_PATH
