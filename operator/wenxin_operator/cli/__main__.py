"""The plugin's commands. On the PATH as kubectl-wenxin, it is `kubectl wenxin`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenxin_operator.cli.status import is_ready, render
from wenxin_operator.cluster import Cluster, Retries
from wenxin_operator.connection import find
from wenxin_operator.errors import OperatorError
from wenxin_operator.names import WENXIN_DEPLOYMENT, Raw
from wenxin_operator.telemetry import VERSION

REQUEST_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run one command.

    Returns:
        0 when all that was asked for is Ready, 1 when something is not, 2 when it could not be asked.
    """
    options = _parser().parse_args(arguments)
    if options.command == "version":
        print(f"kubectl-wenxin {VERSION}")
        return 0
    try:
        found = asyncio.run(_fetch(options, environment))
    except OperatorError as error:
        print(f"kubectl-wenxin: {error}", file=sys.stderr)
        return 2
    if not found:
        print(f"no WenxinDeployment {options.name or 'here'}", file=sys.stderr)
        return 2
    print("\n\n".join(map(render, found)))
    return 0 if all(map(is_ready, found)) else 1


async def _fetch(options: argparse.Namespace, environment: Mapping[str, str]) -> list[Raw]:
    endpoint = find(options.kubeconfig, environment)
    namespace = options.namespace or endpoint.namespace
    async with endpoint.session(timeout=REQUEST_SECONDS) as session:
        cluster = Cluster(session, endpoint.server, identity="kubectl-wenxin", retries=Retries(attempts=2))
        if options.name:
            one = await cluster.read(WENXIN_DEPLOYMENT, namespace, options.name)
            return [one] if one else []
        return (await cluster.list(WENXIN_DEPLOYMENT, namespace)).items


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubectl wenxin", description="ERNIE 4.5 on this cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="how WenxinDeployments are, and why; exit code 1 when one is not Ready")
    status.add_argument("name", nargs="?", help="one of them (default: all of the namespace)")
    status.add_argument("-n", "--namespace", help="default: that of the kubeconfig's context")
    status.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, else ~/.kube/config")
    commands.add_parser("version", help="this plugin's version")
    return parser


if __name__ == "__main__":
    sys.exit(main())
