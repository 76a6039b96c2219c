"""`wenxin-operator`: read the settings, run until a signal. Exit codes: 2 a bad setting, 3 the lease was lost."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from wenxin_operator.errors import OperatorError
from wenxin_operator.settings import Settings, describe
from wenxin_operator.telemetry import VERSION, log_to_stderr

logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Turns WenxinDeployments into pods that serve ERNIE 4.5.

It runs in a cluster, where the chart installs it, or on your machine against the cluster of your kubeconfig:

    kubectl apply -f crds/
    wenxin-operator

Then `kubectl apply -f examples/tiny.yaml` gives it work. /healthz, /readyz and /metrics tell how it is.
"""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the operator.

    Returns:
        The exit code.
    """
    _parser().parse_args(arguments)
    try:
        settings = Settings.from_environment(environment)
        log_to_stderr(settings.log_level, settings.log_format)
        logger.info("wenxin-operator %s", VERSION)
        # Imported late: `--help` and a wrong setting need no kopf.
        from wenxin_operator.supervise import operate  # noqa: PLC0415

        asyncio.run(operate(settings, environment))
    except OperatorError as error:
        print(f"wenxin-operator: {error}", file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wenxin-operator",
        description=_DESCRIPTION,
        epilog=f"Settings are environment variables, with their defaults:\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wenxin-operator {VERSION}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
