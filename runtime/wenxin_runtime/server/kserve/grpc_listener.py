"""The gRPC server itself."""

from typing import Self

import grpc
import grpc.aio

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.server.kserve.grpc_service import Methods
from wenxin_runtime.server.service import Service

# Answers are as large as they are; a client sets its own limit.
_NO_LIMIT = -1


class Listener:
    """A server that listens.

    Attributes:
        port: Where.
    """

    def __init__(self, server: grpc.aio.Server, methods: Methods, port: int) -> None:
        self.port = port
        self._server = server
        self._methods = methods

    @classmethod
    async def start(cls, service: Service, host: str, port: int) -> Self:
        """Listen; port 0 takes a free one.

        Raises:
            ConfigError: the address cannot be had; names the flags.
        """
        options = (
            ("grpc.max_receive_message_length", service.config.max_request_bytes),
            ("grpc.max_send_message_length", _NO_LIMIT),
            # A whole answer may take minutes, in which pings are all that is heard; by default the third ends it.
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.so_reuseport", 0),  # else a port that is taken would be shared with whoever has it
        )
        methods = Methods(service)
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((methods,))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            found = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on --host {host} --grpc-port {port}: is it taken?") from error
        await server.start()
        return cls(server, methods, found)

    async def close(self, seconds: float) -> None:
        """End open streams, finish what is being written, for at most `seconds`."""
        self._methods.closing.set()
        await self._server.stop(seconds)
