"""The rules, by the file that they are written to."""

from collections.abc import Mapping

from monitoring.alerts import deployments, operator, service
from monitoring.rules import Alert, Group

FILES: Mapping[str, tuple[Group, ...]] = {
    "deployments.yaml": deployments.GROUPS,
    "service.yaml": service.GROUPS,
    "operator.yaml": operator.GROUPS,
}


def groups() -> tuple[Group, ...]:
    """All groups."""
    return tuple(group for groups in FILES.values() for group in groups)


def alerts() -> tuple[Alert, ...]:
    """All alerts."""
    return tuple(alert for group in groups() for alert in group.alerts())
