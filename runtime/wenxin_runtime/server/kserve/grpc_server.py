"""The gRPC port: whether there is one, its start and its end. gRPC is imported only where it is asked for."""

import importlib
import logging
from typing import Protocol

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.service import Service

_INSTALL = "install the extra: pip install 'wenxin-operator[grpc]'"

logger = logging.getLogger(__name__)


class GrpcPort(Protocol):
    """The port while it is open."""

    @property
    def port(self) -> int:
        """Its number; 0 where there is none."""

    async def close(self, seconds: float) -> None:
        """End open streams, finish what is being written, for at most `seconds`."""


class _NoPort:
    """Where nobody asked for gRPC."""

    port = 0

    async def close(self, seconds: float) -> None:
        """Do nothing."""


async def open_port(service: Service) -> GrpcPort:
    """Listen on --grpc-port, where it is given.

    Raises:
        ConfigError: what it needs is not installed, or the address cannot be had; names the flag.
    """
    config = service.config
    if config.grpc_port is None:
        return _NoPort()
    try:
        module = importlib.import_module("wenxin_runtime.server.kserve.grpc_listener")
    except ImportError as error:
        raise ConfigError(f"--grpc-port needs the module {error.name}; {_INSTALL}") from error
    listener: GrpcPort = await module.Listener.start(service, config.host, config.grpc_port)
    logger.info("listening for gRPC on %s, port %d", config.host, listener.port)
    return listener
