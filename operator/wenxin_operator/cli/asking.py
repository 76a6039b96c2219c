"""What every command shares: where the cluster is, and what stands there."""

import argparse
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from wenxin_operator.cluster import Cluster, Retries
from wenxin_operator.connection import Endpoint, find
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import Raw

REQUEST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A way to ask.

    Attributes:
        endpoint: The API server.
        session: Logged in there.
        cluster: The API over it.
        namespace: The one that was asked for, else the kubeconfig's; None for all of them.
    """

    endpoint: Endpoint
    session: aiohttp.ClientSession
    cluster: Cluster
    namespace: str | None

    async def some(self, kind: str, name: str | None) -> list[Raw]:
        """The one of this name, if it is there, or all.

        Raises:
            ApiError: they are not to be had.
        """
        if name is None:
            return (await self.cluster.list(kind, self.namespace)).items
        if self.namespace is None:
            raise OperatorError("a name is looked for in one namespace: leave out --all-namespaces, or the name")
        one = await self.cluster.read(kind, self.namespace, name)
        return [one] if one else []


@asynccontextmanager
async def connected(options: argparse.Namespace, environment: Mapping[str, str]) -> AsyncIterator[Connection]:
    """Connect as the options of `add_place` say.

    Raises:
        ConfigurationError: there is no usable kubeconfig.
    """
    endpoint = find(options.kubeconfig, environment, options.kube_context or "")
    everywhere = getattr(options, "all_namespaces", False)
    namespace = None if everywhere else options.namespace or endpoint.namespace
    async with endpoint.session(timeout=REQUEST_SECONDS) as session:
        cluster = Cluster(session, endpoint.server, identity="kubectl-wenxin", retries=Retries(attempts=2))
        yield Connection(endpoint, session, cluster, namespace)


def add_place(command: argparse.ArgumentParser, *, everywhere: bool = False) -> None:
    """Add the options that say where to look.

    Args:
        command: The command.
        everywhere: It can look at all namespaces.
    """
    command.add_argument("-n", "--namespace", help="default: that of the kubeconfig's context")
    if everywhere:
        command.add_argument("-A", "--all-namespaces", action="store_true", help="in all namespaces")
    add_kubeconfig(command)


def add_kubeconfig(command: argparse.ArgumentParser) -> None:
    """Add the options that say which cluster."""
    command.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, else ~/.kube/config")
    command.add_argument("--kube-context", metavar="CONTEXT", help="of the kubeconfig (default: the current one)")


def positive(text: str) -> int:
    """Read an option that must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
