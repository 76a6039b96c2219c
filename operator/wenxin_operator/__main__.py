"""`wenxin-operator`: read the settings, run until a signal; or one of the chart's errands, `crds` and `check`.

Exit codes: 1 what was asked for failed, 2 a bad setting, 3 the lease was lost.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from wenxin_operator.errors import ConfigurationError, OperatorError
from wenxin_operator.settings import Settings, describe
from wenxin_operator.telemetry import VERSION, log_to_stderr

logger = logging.getLogger(__name__)

ERRAND_SECONDS = 60.0
"""How long definitions may take to be served, and copies to be ready."""

_DESCRIPTION = """\
Turns WenxinDeployments into pods that serve ERNIE 4.5.

It runs in a cluster, where the chart installs it, or on your machine against the cluster of your kubeconfig:

    wenxin-operator crds apply
    wenxin-operator

Then `kubectl apply -f examples/tiny.yaml` gives it work. /healthz, /readyz and /metrics tell how it is.
"""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the operator.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        settings = Settings.from_environment(environment)
        log_to_stderr(settings.log_level, settings.log_format)
        if options.command == "crds":
            _crds(options.action, settings, environment)
        elif options.command == "check":
            _check(options.address)
        else:
            _operate(settings, environment)
    except OperatorError as error:
        print(f"wenxin-operator: {error}", file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        return error.exit_code
    return 0


# Each imports late: `--help` and a wrong setting need neither kopf nor the models.


def _operate(settings: Settings, environment: Mapping[str, str]) -> None:
    from wenxin_operator.supervise import operate  # noqa: PLC0415

    logger.info("wenxin-operator %s", VERSION)
    asyncio.run(operate(settings, environment))


def _crds(action: str, settings: Settings, environment: Mapping[str, str]) -> None:
    from wenxin_operator.api.schema import crds, render  # noqa: PLC0415

    if action == "show":
        print("---\n".join(map(render, crds().values())), end="")  # noqa: T201 - a command's output
        return
    from wenxin_operator.cluster import Cluster  # noqa: PLC0415
    from wenxin_operator.connection import find  # noqa: PLC0415
    from wenxin_operator.definitions import bring_up  # noqa: PLC0415

    async def apply() -> None:
        endpoint = find(settings.kubeconfig, environment)
        async with endpoint.session(timeout=settings.request_timeout) as session:
            cluster = Cluster(session, endpoint.server, identity=settings.identity)
            await bring_up(cluster, crds().values(), patience=ERRAND_SECONDS)

    asyncio.run(apply())


def _check(address: str) -> None:
    from wenxin_operator.check import check  # noqa: PLC0415

    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ConfigurationError(f"check: {address} is not HOST:PORT")
    print(asyncio.run(check(host, int(port), patience=ERRAND_SECONDS)))  # noqa: T201 - a command's output


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wenxin-operator",
        description=_DESCRIPTION,
        epilog=f"Settings are environment variables, with their defaults:\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wenxin-operator {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands (default: run)")
    crds = commands.add_parser("crds", help="this version's CustomResourceDefinitions")
    crds.add_argument("action", choices=("apply", "show"), help="put them into the cluster, or print them")
    check = commands.add_parser("check", help="ask the copies behind a Service whether they are ready, and one leads")
    check.add_argument("address", metavar="HOST:PORT", help="of their probes and metrics")
    return parser


if __name__ == "__main__":
    sys.exit(main())
