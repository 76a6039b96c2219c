"""How the ranks find each other and agree, before anything is computed.

The leader listens at --master-port, every other rank calls and says what it is. When all have come and have the same
runtime, checkpoint, flags and kind of device, the leader tells each where to go on; else all of them are refused, with
the rank, its machine, and what differs. The lines stay open; see `pulse`.
"""

import contextlib
import errno
import ipaddress
import logging
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from wenxin_runtime.config import RuntimeConfig, flag_of
from wenxin_runtime.errors import ConfigError, GroupMismatch, RankLost
from wenxin_runtime.parallel.children import names_of
from wenxin_runtime.parallel.wire import Gone, Hello, Line, Refused, Welcome

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 300.0
"""How long all ranks have to come; a pod that pulls its image is restarted, and calls again."""
LOOPBACK = "127.0.0.1"
_TROUBLED_SECONDS = 15.0  # that a rank which cannot take part tries to tell the leader
_LOG_EVERY_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.1
_AGAIN_AFTER_SECONDS = 0.5
_SPEAK_WITHIN_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
# Once ranks disagree, the rest has a moment to call and be told so, rather than find nobody and call for minutes.
_DISAGREE_SECONDS = 10.0

# What a machine may have for itself, or only the server looks at. All other flags must be alike, also ones to come.
# Device and dtype are compared by what came of them.
OWN_FLAGS = frozenset(
    {
        *("model_dir", "host", "port", "node_rank", "master_addr", "device", "dtype", "cpu_threads", "log_level"),
        *("served_model_name", "queue_size", "seed", "max_logprobs", "max_request_bytes", "chat_template"),
        *("reasoning_parser", "tool_call_parser", "shutdown_delay", "drain_timeout", "engine_stall_timeout"),
        *("otlp_endpoint", "enable_debug_endpoints", "async_scheduling", "enable_prefix_caching"),
        *("redis_url", "redis_url_file", "redis_ca_file", "cache_ttl", "cache_match", "cache_max_entry_bytes"),
    }
)


def shared_flags(config: RuntimeConfig) -> dict[str, str]:
    """Spell the flags that all ranks must have alike."""
    fields: dict[str, object] = msgspec.to_builtins(config)
    return {name: str(value) for name, value in fields.items() if name not in OWN_FLAGS}


def disagreement(own: Hello, other: Hello) -> str:
    """Say in what a rank differs from the leader; empty where they agree. Goes on after the rank's name."""
    if other.version != own.version:
        return f"runs wenxin-runtime {other.version}, the leader {own.version}: all need the same image"
    for name in sorted(own.flags.keys() | other.flags.keys()):
        mine, theirs = own.flags.get(name, "unknown"), other.flags.get(name, "unknown")
        if mine != theirs:
            return f"has {flag_of(name)} {theirs}, the leader {mine}: give all nodes the same flags"
    if other.trouble:
        return f"cannot take part: {other.trouble}"
    for what, mine, theirs, advice in (
        ("has checkpoint", own.checkpoint, other.checkpoint or own.checkpoint, "all need the same files"),
        ("computes on", own.device, other.device, "all need the same kind of device"),
        ("computes in", own.dtype, other.dtype, "give all nodes the same --dtype"),
    ):
        if mine != theirs:
            return f"{what} {theirs}, the leader {mine}: {advice}"
    return ""


def listen(config: RuntimeConfig) -> socket.socket:
    """Open the leader's port: with one machine any free one, on loopback.

    Raises:
        ConfigError: the port is taken.
    """
    if config.nnodes == 1:
        return open_port(0, loopback=True)
    try:
        return open_port(config.master_port, loopback=stays_here(config))
    except OSError as error:
        what = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise ConfigError(f"cannot listen on --master-port {config.master_port}: {what}") from error


def open_port(port: int, *, loopback: bool) -> socket.socket:
    """Listen on loopback or on all addresses; port 0 takes a free one."""
    if loopback:
        return socket.create_server((LOOPBACK, port))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def stays_here(config: RuntimeConfig) -> bool:
    """Tell whether all ranks are on this machine, and nothing needs to listen to others."""
    if config.nnodes == 1 or config.master_addr == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.IPv4Address(config.master_addr).is_loopback
    return False


@dataclass(slots=True)
class _Seat:
    """One rank's place."""

    hello: Hello
    line: Line


@dataclass(slots=True)
class RollCall:
    """The leader's list of who has come.

    Attributes:
        config: The leader's.
        own: What the others are compared with.
        listener: Where they call.
    """

    config: RuntimeConfig
    own: Hello
    listener: socket.socket
    _seats: dict[int, _Seat] = field(default_factory=dict)
    _unheard: dict[Line, float] = field(default_factory=dict)
    _mismatch: str = ""

    def complete(self, still_wanted: Callable[[], None], patience_seconds: float | None = None) -> dict[int, Line]:
        """Wait until every rank has come.

        Args:
            still_wanted: Called several times a second; raises where there is no use in waiting.
            patience_seconds: How long.

        Returns:
            The line to each, by world rank.

        Raises:
            GroupMismatch: a rank differs from the leader; everybody has been told.
            RankLost: somebody has not come in time.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            try:
                self._wait(selector, still_wanted, PATIENCE_SECONDS if patience_seconds is None else patience_seconds)
            except Exception as error:
                self._refuse_all(str(error), again=not isinstance(error, GroupMismatch))
                raise
            for line in self._unheard:
                line.close()
        logger.info("all %d ranks have come", self.config.world_size)
        return {rank: seat.line for rank, seat in sorted(self._seats.items())}

    def _wait(self, selector: selectors.BaseSelector, still_wanted: Callable[[], None], patience: float) -> None:
        until, next_log = time.monotonic() + patience, time.monotonic() + _LOG_EVERY_SECONDS
        while missing := self._missing():
            still_wanted()
            now = time.monotonic()
            if now >= until:
                break
            if now >= next_log:
                next_log = now + _LOG_EVERY_SECONDS
                logger.info("waiting for %s", names_of(self.config, missing))
            for key, _ in selector.select(_LOOK_EVERY_SECONDS):
                self._attend(selector, key.fileobj)
            self._hang_up_on_the_silent(selector)
            if self._mismatch:
                until = min(until, now + _DISAGREE_SECONDS)
        if self._mismatch:
            raise GroupMismatch(self._mismatch)
        if missing:
            raise RankLost(f"{names_of(self.config, missing)} did not come within {patience:g} s")

    def _missing(self) -> list[int]:
        """List who has not come; of a group that disagrees only those that we cannot end ourselves."""
        first = self.config.ranks_of_node if self._mismatch else 1
        return [rank for rank in range(first, self.config.world_size) if rank not in self._seats]

    def _attend(self, selector: selectors.BaseSelector, ready: object) -> None:
        if isinstance(ready, Line):
            self._hear(selector, ready)
            return
        with contextlib.suppress(OSError):  # who has called and is gone already
            line = Line(self.listener.accept()[0])
            if len(self._unheard) > self.config.world_size:  # nobody of ours calls so often
                line.close()
                return
            self._unheard[line] = time.monotonic() + _SPEAK_WITHIN_SECONDS
            selector.register(line, selectors.EVENT_READ)

    def _hear(self, selector: selectors.BaseSelector, line: Line) -> None:
        try:
            for message in line.receive():
                if not isinstance(message, Hello):
                    raise Gone("says no hello")  # noqa: TRY301 - one way out for all that is wrong
                self._take(selector, line, message)
        except Gone as gone:
            logger.warning("a caller is dropped: it %s", gone)
            self._drop(selector, line)

    def _take(self, selector: selectors.BaseSelector, line: Line, hello: Hello) -> None:
        differs = disagreement(self.own, hello)
        belongs = 0 < hello.rank < self.config.world_size and hello.rank // self.config.ranks_of_node == hello.node
        if not belongs and not differs:
            raise Gone(f"says that it is rank {hello.rank} on node {hello.node}, which there is not")
        self._unheard.pop(line, None)
        if differs and not self._mismatch:
            self._mismatch = f"rank {hello.rank} on node {hello.node} ({line.peer_address}) {differs}"
        if earlier := self._seats.pop(hello.rank, None):
            logger.info("rank %d on node %d reports again", hello.rank, hello.node)
            with contextlib.suppress(Gone):
                earlier.line.send(Refused(f"another process reports as rank {hello.rank}", again=True))
            self._drop(selector, earlier.line)
        self._seats[hello.rank] = _Seat(hello, line)
        memory = f", {hello.memory / 2**30:.1f} GiB" if hello.memory else ""
        logger.debug("rank %d on node %d has come: %s%s", hello.rank, hello.node, hello.device, memory)

    def _drop(self, selector: selectors.BaseSelector, line: Line) -> None:
        selector.unregister(line)
        line.close()
        self._unheard.pop(line, None)
        self._seats = {rank: seat for rank, seat in self._seats.items() if seat.line is not line}

    def _hang_up_on_the_silent(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for line in [line for line, until in self._unheard.items() if now > until]:
            self._drop(selector, line)

    def _refuse_all(self, message: str, *, again: bool) -> None:
        for seat in self._seats.values():
            with contextlib.suppress(Gone):
                seat.line.send(Refused(message, again))
            seat.line.close()
        for line in self._unheard:
            line.close()


def report(address: tuple[str, int], hello: Hello, patience_seconds: float | None = None) -> tuple[Line, Welcome]:
    """Call the leader until it has an answer.

    Args:
        address: Its name or address, and port.
        hello: What to say.
        patience_seconds: How long to go on calling while there is nobody, or a group that is complete.

    Returns:
        The open line, and where to go on.

    Raises:
        GroupMismatch: we or somebody else differ from the leader.
        RankLost: the leader could not be found in time.
    """
    patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    until = time.monotonic() + (min(patience, _TROUBLED_SECONDS) if hello.trouble else patience)
    host, port = address
    next_log = 0.0
    while True:
        try:
            return _called(address, hello, until)
        except (OSError, Gone) as error:
            why = str(error)
        now = time.monotonic()
        if now >= until:
            raise RankLost(f"found no leader at {host}:{port} (--master-addr, --master-port): {why}")
        if now >= next_log:
            next_log = now + _LOG_EVERY_SECONDS
            logger.info("rank %d: waiting for the leader at %s:%d: %s", hello.rank, host, port, why)
        time.sleep(_AGAIN_AFTER_SECONDS)


def _called(address: tuple[str, int], hello: Hello, until: float) -> tuple[Line, Welcome]:
    line = Line(socket.create_connection(address, _CONNECT_SECONDS))
    try:
        line.send(hello)
        answer = line.wait(max(_CONNECT_SECONDS, until - time.monotonic()))
    except BaseException:
        line.close()
        raise
    if isinstance(answer, Welcome):
        return line, answer
    line.close()
    if isinstance(answer, Refused) and not answer.again:
        raise GroupMismatch(answer.message)
    raise Gone(answer.message if isinstance(answer, Refused) else "answers what is no answer")
